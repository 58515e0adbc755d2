vcl 4.1;
/* one /* two */
backnd a { .host = "10.0.0.1"; }
director old round-robin { { .backend = a; } }
backend { .host = "10.0.0.2"; }
backend b = "10.0.0.3";
backend b2 { .host = "a" + 1; .probe = 5; .via = "b"; .port = ; }
backend c { .host; .port "80"; = ; { } }
probe { }
sub { }
sub vcl_recv { if (req.url) set req.url = "/"; set req.url = "x" }
import;
acl "x";
acl y "z";
import std as 1;
import std from here;
import std directors;
§
backend d { .host = "10.0.0.4
"; }
backend e { .host = {"10.0.0.5"; }
