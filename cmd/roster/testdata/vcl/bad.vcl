vcl 4.1;
backend web1 { .host = "10.0.0.1"; .prt = "8080"; .probe = helth; }
backend web2 { .host = "not a host"; .connect_timeout = 3; }
