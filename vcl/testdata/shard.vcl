vcl 4.1;
import directors;

backend a { .host = "10.0.0.1"; }
backend b { .host = "10.0.0.2"; }
backend c { .host = "10.0.0.3"; }

sub vcl_init {
    new ring = directors.shard();
    ring.add_backend(a, "alpha", 10s, 2);
    ring.add_backend(b, weight = 0.5);
    ring.add_backend(b);
    ring.add_backend(c, rampup = 0s);
    ring.add_backend(a, ident = "a" + "2");
    ring.remove_backend(backend = c);
    ring.add_backend(backend = c, weight = 3);
    ring.reconfigure(100);
    new param = directors.shard_param();
    param.set(by = KEY, key = 4711);
    ring.associate(param.use());
    new other = directors.shard();
    other.add_backend(a);
    other.clear();
    other.add_backend(b);
    other.set_rampup(30s);
    new empty = directors.round_robin();
    empty.add_backend(a);
    empty.remove_backend(a);
}

sub vcl_recv {
    set req.backend_hint = ring.backend(by = KEY, key = ring.key(req.url));
}
