vcl 4.1;

backend bare { .host = "2001:db8::1"; }
backend bracketed { .host = "[2001:db8::2]:8080"; }
backend with_port { .host = "10.0.0.3:8081"; }
