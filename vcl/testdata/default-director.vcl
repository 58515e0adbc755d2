vcl 4.1;
import directors;

probe default { .url = "/"; .interval = 1d; .timeout = 1w; }
backend blue { .host = "blue.example"; .port = "8080"; }
backend green { .host = "green.example"; .port = "8080"; .host_header = "green.example:8080"; }

sub vcl_init {
    new live = directors.fallback(false);
    live.add_backend(green);
    live.add_backend(blue);
}
sub vcl_recv { set req.backend_hint = live.backend(); }
sub vcl_backend_fetch { set bereq.backend = live.backend(); }
