package node

import (
	"strings"
	"testing"
	"time"

	"roster/http1"
	"roster/node/accesslog"
	"roster/node/certs"
	"roster/store"
	"roster/store/embedded"
)

func TestConfigReportsAllFaultsAtOnce(t *testing.T) {
	t.Parallel()
	_, err := New(Config{
		Listen:   []string{"8080", "tls://:x443", "unix://", "unix://run/x", "localhost:", ":http-nope", "quic://:443"},
		Admin:    "10.0.0.1:6082",
		Store:    store.Config{Prefix: "//", User: "u"},
		Embedded: &embedded.Config{Listen: "0.0.0.0:2379"},

		Certificates:   certs.Config{Files: []certs.Pair{{Cert: "nowhere.pem", Key: "nowhere.key"}}},
		MaxConnections: -7, MinBodyRate: -8, HeadTimeout: -1,
		Limits:    http1.Limits{MaxHead: 100, MaxFields: -9, MaxTarget: -10},
		AccessLog: accesslog.Config{Format: "yaml"},

		DrainDelay: -time.Second, DrainTimeout: -1, DNSInterval: -1,
	})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{`"8080"`, `"tls://:x443"`, `"unix://"`, `"unix://run/x"`, `"localhost:"`, "http-nope", `"quic://:443"`, "nowhere.pem",
		"max-connections is -7", "body rate is -8", "head timeout is -1ns", "max-header-size is 100", "max-header-fields is -9", "max-target-size is -10", `access-log is "yaml"`, "10.0.0.1:6082", "prefix", "password", "data directory", "0.0.0.0:2379", "drain delay", "drain timeout", "DNS interval"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("nothing about %s in: %v", want, err)
		}
	}
}

func TestConfigOfADefaultNodeIsValid(t *testing.T) {
	t.Parallel()
	for _, c := range []Config{
		{Listen: []string{":8080"}, Admin: "127.0.0.1:6082", Embedded: &embedded.Config{Dir: "d"}},
		{Listen: []string{"[::1]:80", "unix:///run/x"}, Admin: "[::1]:6082", Store: store.Config{Endpoints: []string{"10.0.0.1:2379"}}},
	} {
		if err := c.Validate(); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
	tls := Config{Listen: []string{":80"}, Embedded: &embedded.Config{Dir: "d"}, Certificates: certs.Config{ClientCA: "config_test.go"}}
	if err := tls.Validate(); err == nil || !strings.Contains(err.Error(), "no listener has TLS") {
		t.Errorf("a client CA without a listener with TLS gave %v", err)
	}
	if err := (Config{Listen: []string{"tls://:443"}, Embedded: &embedded.Config{Dir: "d"}}).Validate(); err != nil {
		t.Errorf("certificates from etcd alone: %v", err)
	}
	file := Config{Listen: []string{":80", "unix://@x"}, Embedded: &embedded.Config{Dir: "d"}, AccessLog: accesslog.Config{File: "x.log"}}
	if err := file.Validate(); err == nil || !strings.Contains(err.Error(), `access-log-file is "x.log"`) {
		t.Errorf("a file for no access log gave %v", err)
	}
	if file.AccessLog.Format = accesslog.JSON; file.Validate() != nil {
		t.Error(file.Validate())
	}
	if err := (Config{Listen: []string{":80"}, Admin: "127.0.0.1:99999"}).Validate(); err == nil || !strings.Contains(err.Error(), "99999") {
		t.Errorf("port 99999 gave %v", err)
	}
}
