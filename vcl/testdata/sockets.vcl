vcl 4.1;

backend php { .path = "/run/php/app.sock"; .first_byte_timeout = 5m; }
backend abstract { .path = "@app"; .host_header = "app.example"; }
