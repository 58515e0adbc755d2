vcl 4.1;

backend a {
    .host = "192.0.2.1";
    .probe = {
        .url = "/a";
        .expected_response = 301;
        .timeout = 1.25s;
        .interval = 10 s;
        .initial = 0;
        .window = 64;
        .threshold = 64;
    }
}
backend b {
    .host = "192.0.2.2";
    .probe = { .threshold = 5; }
}
backend c { .host = "192.0.2.3"; .probe = { } }
