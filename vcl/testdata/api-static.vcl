vcl 4.0;

import directors;

probe default {
    .request =
        "HEAD /ping HTTP/1.1"
        "Host: api.example"
        {"X-Reason: "varnish""}
        "Connection: close";
    .expected_response = 204;
    .interval = 1m;
    .timeout = 0.5s;
    .threshold = 2;
}

backend static {
    .host = "10.2.0.1";
    .connect_timeout = 1s;
    .between_bytes_timeout = 10s;
}
backend api_a { .host = "10.2.1.1"; .port = "9000"; .host_header = "api.example"; .probe = default; }
backend api_b { .host = "10.2.1.2"; .port = "9000"; .host_header = "api.example"; .probe = default; }

sub vcl_init {
    new api = directors.hash();
    api.add_backend(api_a);
    api.add_backend(api_b, 2.5);
}

sub vcl_recv {
    if (req.url ~ "^/api/") {
        set req.backend_hint = api.backend(req.http.Cookie);
        return (pass);
    }
    set req.backend_hint = static;
}
