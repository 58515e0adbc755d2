package node

import (
	"strings"
	"testing"
	"time"

	"roster/store"
	"roster/store/embedded"
)

func TestConfigReportsAllFaultsAtOnce(t *testing.T) {
	t.Parallel()
	_, err := New(Config{
		Listen:   []string{"8080", "tls://:443", "unix://", ":http-nope"},
		Admin:    "10.0.0.1:6082",
		Store:    store.Config{Prefix: "//", User: "u"},
		Embedded: &embedded.Config{Listen: "0.0.0.0:2379"},

		DrainDelay: -time.Second, DrainTimeout: -1, DNSInterval: -1,
	})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{`"8080"`, `"tls://:443"`, `"unix://"`, "http-nope", "10.0.0.1:6082", "prefix", "password", "data directory", "0.0.0.0:2379", "drain delay", "drain timeout", "DNS interval"} {
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
	if err := (Config{Listen: []string{":80"}, Admin: "127.0.0.1:99999"}).Validate(); err == nil || !strings.Contains(err.Error(), "99999") {
		t.Errorf("port 99999 gave %v", err)
	}
}
