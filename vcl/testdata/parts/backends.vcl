probe alive { .url = "/alive"; }
backend inner { .host = "10.0.0.1"; .probe = alive; }
include "./more.vcl";
