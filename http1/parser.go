package http1

import "roster/message"

// Limits bound a head. Zero means the default.
type Limits struct {
	MaxHead   int // bytes of a head, its empty line included: 64 KiB
	MaxFields int // 128
	MaxTarget int // bytes of a request target: 16 KiB
}

// Parser reads heads.
type Parser struct{ Limits }

func (p *Parser) Request(buf []byte, r *message.Request) (n int, err error) { panic("unfinished") }
func (p *Parser) Response(buf []byte, r *message.Response, method []byte) (n int, err error) {
	panic("unfinished")
}
func (p *Parser) Reset() { panic("unfinished") }

// IsH2Preface reports whether buf starts with the HTTP/2 connection preface, and
// whether it may once more bytes have come.
func IsH2Preface(buf []byte) (is, maybe bool) { panic("unfinished") }
