vcl 4.1;
import directors;

probe web { }
backend web { .host = "10.0.0.1"; }
backend web.2 { .host = "10.0.0.2"; }
backend vcl_web { .host = "10.0.0.3"; }
backend nobody none;
backend x { .host = "10.0.0.4"; .probe = wbe; .via = y; }
backend y { .host = "10.0.0.5"; .via = x; .probe = default; }
backend z { .host = "10.0.0.6"; .via = nobody; }

sub vcl_init {
    new x = directors.round_robin();
    new d = directors.round_robbin();
    new r = directors.random();
    r.add_backend(y);
    r.add_backend(z, lots);
    r.add_backend(nobody, 1);
    r.add_backend(missing, 1);
    r.add_backend(web, 1);
    r.add_backend(y, 1, 2);
    r.add_backend(y, share = 1);
    r.add_backend(backend = y, y, 1);
    rr.add_backend(y);
    new s = direktors.shard();
    new t = directors.shard();
    t.set_warmup();
    t.set_rampup(5);
    t.reconfigure(0);
    t.set_warmup(2);
    t.add_backend();
    t.remove_backend(b, x, y);
    t.remove_backend(nowhere);
    t.add_backend(y, weight = 1, rampup = soon);
    t.add_backend(y, weight = 2000000);
    t.add_backend(z, , 1);
    new u = directors.fallback(2);
    u.add_backend(y) z;
    new w = directors.random(true);
    new;
    call missing_sub;
    call again;
}
sub again { call again; }
