vcl 4.1;

C{
#include <stdio.h>
/* backend hidden { .host = "x"; } */
}C

backend default { .host = "127.0.0.1"; }

sub vcl_recv {
    C{ puts("}"); }C
    return (pass);
}
