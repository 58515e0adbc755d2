# The shop: two fronts of equal size, one spare, health checked.
vcl 4.1;

import std;
import directors;

acl purgers -log +table {
    "localhost";
    "10.0.0.0"/8;
    ! "10.0.0.13";
}

probe health {
    .url = "/health";
    .interval = 3s;
    .timeout = 750ms;
    .window = 5;
    .threshold = 3;
    .initial = 3;
}

backend front1 {
    .host = "10.0.1.11";
    .port = "8080";
    .max_connections = 200;
    .first_byte_timeout = 30s;
    .probe = health;
}
backend front2 {
    .host = "10.0.1.12";
    .port = "8080";
    .max_connections = 200;
    .first_byte_timeout = 30s;
    .probe = health;
}
backend spare {
    .host = "spare.shop.example";
    .host_header = "shop.example";
    .probe = health;
}

sub vcl_init {
    new fronts = directors.round_robin();
    fronts.add_backend(front1);
    fronts.add_backend(front2);

    new shop = directors.fallback(sticky = true);
    shop.add_backend(fronts.backend());
    shop.add_backend(spare);
    return (ok);
}

sub vcl_recv {
    if (req.method == "PURGE") {
        if (client.ip !~ purgers) {
            return (synth(405));
        }
        return (purge);
    }
    set req.backend_hint = shop.backend();
    if (req.url ~ "^/(cart|checkout)") {
        return (pass);
    } elsif (req.http.Authorization) {
        return (pass);
    } else {
        unset req.http.Cookie;
    }
}

sub vcl_backend_response {
    set beresp.grace = 1h;
    std.log("ttl " + beresp.ttl);
}
