package http1

type requestCase struct{ in string }
type responseCase struct{ method, in string }
type chunkedCase struct{ in string }

var requestCases = []requestCase{
	{"GET / HTTP/1.1\r\nHost: a\r\n\r\n"},
	{"POST /x?y HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /"},
	{"POST http://h.test/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"},
}
var responseCases = []responseCase{
	{"GET", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"},
	{"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nX: y\r\n\r\n"},
	{"GET", "HTTP/1.0 200 OK\r\n\r\nabc"},
	{"GET", "HTTP/1.1 204 OK\r\n\r\nabc"},
}
var chunkedCases = []chunkedCase{{"3;a=b\r\nabc\r\n0\r\nX: y\r\n\r\n"}, {"0\r\n\r\n"}, {"g\r\n"}}
