vcl 4.1;
import directors;

probe health { .url = "/health"; .threshold = 2; }
backend web1 { .host = "10.0.0.1"; .port = "8080"; .probe = health; }
backend web2 { .host = "10.0.0.2"; .probe = { .interval = 1s; } }
backend spare { .path = "/run/spare.sock"; }

sub vcl_init {
    new www = directors.random();
    www.add_backend(web1, 2);
    www.add_backend(web2, 1);
}

include "rules.vcl";
