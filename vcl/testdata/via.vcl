vcl 4.1;

# TLS is offloaded: connections go to a local hitch by a socket, which is told the
# destination in a PROXY header.
backend offload { .host = "127.0.0.1"; .port = "8443"; .connect_timeout = 100ms; }
backend origin {
    .host = "203.0.113.7";
    .port = "443";
    .host_header = "origin.example";
    .via = offload;
    .authority = "sni.origin.example:443";
}
backend plain { .host = "203.0.113.8"; .port = "443"; .via = offload; .authority = ""; }
backend named { .host = "origin.example"; .port = "https"; .via = offload; }
