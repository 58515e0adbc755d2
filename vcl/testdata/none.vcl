vcl 4.1;

# All requests are answered by synth, but for the admin pages.
backend nobody none;
backend admin { .host = "127.0.0.1"; .port = "8081"; }

sub vcl_recv {
    if (req.url ~ "^/admin/") {
        set req.backend_hint = admin;
        return (pass);
    }
    return (synth(410, "Gone for good"));
}
