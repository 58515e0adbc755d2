backend glob1 { .host = "10.0.1.1"; }
