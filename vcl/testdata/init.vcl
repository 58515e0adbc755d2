vcl 4.1;
import directors;
import std;

backend a { .host = "10.0.0.1"; }
backend b { .host = "10.0.0.2"; }

# vcl_init may be there several times, and call others.
sub make_pools {
    new one = directors.round_robin();
    one.add_backend(a);
}
sub vcl_init {
    call make_pools;
    std.log("made");
    if (std.file_exists("/etc/two")) {
        one.add_backend(b);
    } else {
        std.syslog(1, "no two");
    }
    {
        one.add_backend(a);
    }
}
sub vcl_init {
    one.add_backend(b);
    return (ok);
}
sub vcl_init {
    one.add_backend(a);
}
sub vcl_fini { return (ok); }
