# Varnish refuses: it takes one string for an attribute, and no ; behind a probe.
vcl 4.1;

backend joined {
    .host = "www" ".internal" + ".example";
    .host_header = {"www"} + """.example""";
    .probe = {
        .request = "GET /a" + "/b HTTP/1.1"
                   "Host: www.example"
                   "Connection: " + "close";
    };
}
