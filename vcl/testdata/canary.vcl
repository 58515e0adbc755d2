vcl 4.1;
import directors;

backend stable { .host = "stable.svc.example"; .port = "80"; }
backend canary { .host = "canary.svc.example"; .port = "80"; }

sub vcl_init {
    // one request of twenty
    new split = directors.random();
    split.add_backend(stable, 9.5);
    split.add_backend(canary, 0.5);
}

sub vcl_recv {
    if (req.http.X-Canary == "1" || req.http.Cookie ~ "(^|; )canary=1") {
        set req.backend_hint = canary;
    } else {
        set req.backend_hint = split.backend();
    }
}
