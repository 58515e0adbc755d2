vcl 4.1;

backend slow {
    .host = "10.0.0.1";
    .max_connections = 4;
    .wait_limit = 100;
    .wait_timeout = 2.5s;
    .connect_timeout = 0s;
    .first_byte_timeout = 0s;
    .between_bytes_timeout = 1h;
}
