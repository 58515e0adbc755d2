backend glob2 { .host = "10.0.1.2"; }
