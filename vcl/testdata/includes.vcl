# Varnish refuses: it wants all the files that are included.
vcl 4.1;

import directors;
include "parts/backends.vcl";
include "missing/devicedetect.vcl";
include +glob "conf.d/*.vcl";

sub vcl_init {
    new pool = directors.fallback();
    include "parts/members.vcl";
    pool.add_backend(elsewhere);
}
