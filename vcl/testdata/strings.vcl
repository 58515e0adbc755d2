vcl 4.1;

/* Every form of string, and comments where they may stand.
 * "quoted" # and // are nothing here. */
backend short { .host = "127.0.0.1"; .port = "http"; /* by name */ }
backend long {
    .host = {"127.0.0.1"};       // a long string
    .host_header = """www.example""";
    .probe = {
        .request = {"GET /"quoted"?x=# HTTP/1.1"} # a long one
                   """Host: www.example"""
                   "X-Comment: // none /* here */"
                   "Connection: close";
    }
}
