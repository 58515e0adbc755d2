vcl 4.1;

import directors as lb;
import dynamic;
import goto;
import vsthrottle from "/usr/lib/varnish/libvmod_vsthrottle.so";

backend first { .host = "10.0.0.1"; }

sub vcl_init {
    new d = dynamic.director(port = "80", ttl = 30s);
    d.debug(true);
    new pool = lb.round_robin();
    pool.add_backend(first);
    pool.add_backend(d.backend("www.example"));
    pool.add_backend(goto.dns_backend("api.example"));
}

sub vcl_recv {
    if (vsthrottle.is_denied(client.identity, 15, 10s)) {
        return (synth(429));
    }
    set req.backend_hint = d.backend(req.http.host);
}
