vcl 4.0;
backend a { .path = "/run/a"; }
include "error-includes.vcl";
include "parts/newer.vcl";
include x;
include "parts" 