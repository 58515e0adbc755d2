vcl 4.1;
import directors;
probe p { .url = "/alive"; .window = 10; .threshold = 5; .initial = 10; }
backend node1 { .host = "10.9.0.1"; .port = "8001"; .probe = p; }
backend node2 { .host = "10.9.0.2"; .port = "8002"; .probe = p; }
backend node3 { .host = "10.9.0.3"; .port = "8003"; .probe = p; }
backend node4 { .host = "10.9.0.4"; .port = "8004"; .probe = p; }
backend node5 { .host = "10.9.0.5"; .port = "8005"; .probe = p; }
backend node6 { .host = "10.9.0.6"; .port = "8006"; .probe = p; }
backend node7 { .host = "10.9.0.7"; .port = "8007"; .probe = p; }
backend node8 { .host = "10.9.0.8"; .port = "8008"; .probe = p; }
backend node9 { .host = "10.9.0.9"; .port = "8009"; .probe = p; }
backend node10 { .host = "10.9.0.10"; .port = "8010"; .probe = p; }
backend node11 { .host = "10.9.0.11"; .port = "8011"; .probe = p; }
backend node12 { .host = "10.9.0.12"; .port = "8012"; .probe = p; }
backend node13 { .host = "10.9.0.13"; .port = "8013"; .probe = p; }
backend node14 { .host = "10.9.0.14"; .port = "8014"; .probe = p; }
backend node15 { .host = "10.9.0.15"; .port = "8015"; .probe = p; }
backend node16 { .host = "10.9.0.16"; .port = "8016"; .probe = p; }
backend node17 { .host = "10.9.0.17"; .port = "8017"; .probe = p; }
backend node18 { .host = "10.9.0.18"; .port = "8018"; .probe = p; }
backend node19 { .host = "10.9.0.19"; .port = "8019"; .probe = p; }
backend node20 { .host = "10.9.0.20"; .port = "8020"; .probe = p; }
backend node21 { .host = "10.9.0.21"; .port = "8021"; .probe = p; }
backend node22 { .host = "10.9.0.22"; .port = "8022"; .probe = p; }
backend node23 { .host = "10.9.0.23"; .port = "8023"; .probe = p; }
backend node24 { .host = "10.9.0.24"; .port = "8024"; .probe = p; }
backend node25 { .host = "10.9.0.25"; .port = "8025"; .probe = p; }
backend node26 { .host = "10.9.0.26"; .port = "8026"; .probe = p; }
backend node27 { .host = "10.9.0.27"; .port = "8027"; .probe = p; }
backend node28 { .host = "10.9.0.28"; .port = "8028"; .probe = p; }
backend node29 { .host = "10.9.0.29"; .port = "8029"; .probe = p; }
backend node30 { .host = "10.9.0.30"; .port = "8030"; .probe = p; }
backend node31 { .host = "10.9.0.31"; .port = "8031"; .probe = p; }
backend node32 { .host = "10.9.0.32"; .port = "8032"; .probe = p; }
backend node33 { .host = "10.9.0.33"; .port = "8033"; .probe = p; }
backend node34 { .host = "10.9.0.34"; .port = "8034"; .probe = p; }
backend node35 { .host = "10.9.0.35"; .port = "8035"; .probe = p; }
backend node36 { .host = "10.9.0.36"; .port = "8036"; .probe = p; }
backend node37 { .host = "10.9.0.37"; .port = "8037"; .probe = p; }
backend node38 { .host = "10.9.0.38"; .port = "8038"; .probe = p; }
backend node39 { .host = "10.9.0.39"; .port = "8039"; .probe = p; }
backend node40 { .host = "10.9.0.40"; .port = "8040"; .probe = p; }
sub vcl_init {
    new all = directors.shard();
    all.add_backend(node1);
    all.add_backend(node2);
    all.add_backend(node3);
    all.add_backend(node4);
    all.add_backend(node5);
    all.add_backend(node6);
    all.add_backend(node7);
    all.add_backend(node8);
    all.add_backend(node9);
    all.add_backend(node10);
    all.add_backend(node11);
    all.add_backend(node12);
    all.add_backend(node13);
    all.add_backend(node14);
    all.add_backend(node15);
    all.add_backend(node16);
    all.add_backend(node17);
    all.add_backend(node18);
    all.add_backend(node19);
    all.add_backend(node20);
    all.add_backend(node21);
    all.add_backend(node22);
    all.add_backend(node23);
    all.add_backend(node24);
    all.add_backend(node25);
    all.add_backend(node26);
    all.add_backend(node27);
    all.add_backend(node28);
    all.add_backend(node29);
    all.add_backend(node30);
    all.add_backend(node31);
    all.add_backend(node32);
    all.add_backend(node33);
    all.add_backend(node34);
    all.add_backend(node35);
    all.add_backend(node36);
    all.add_backend(node37);
    all.add_backend(node38);
    all.add_backend(node39);
    all.add_backend(node40);
    all.set_warmup(0.25);
    all.set_rampup(1.5m);
    all.reconfigure(replicas = 25);
}
sub vcl_recv { set req.backend_hint = all.backend(by = URL); }
