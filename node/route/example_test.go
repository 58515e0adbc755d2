package route_test

import (
	"fmt"
	"net/netip"

	"roster/message"
	"roster/node/route"
	"roster/store"
)

func Example() {
	var index route.Index
	edit := index.Edit()
	for name, value := range map[string]string{
		"java":  `{"match": {"host": "*.foo.com", "path": "/java/*"}, "backend": "java"}`,
		"admin": `{"match": {"path": "/java/admin/*"}, "priority": 1, "respond": {"status": 403}}`,
	} {
		def, _, err := store.Decode(store.Key{Kind: store.Routes, Name: name}, []byte(value), store.Reject)
		if err != nil {
			panic(err)
		}
		edit.Add(route.New(name, def.(*store.Route), 1, 1, 0))
	}
	index = edit.Commit()

	var query route.Query
	for _, target := range []string{"/java/x", "/java//%61dmin/x", "/"} {
		query.Begin(&message.Request{Method: []byte("GET"), Target: []byte(target), Authority: []byte("www.foo.com")}, netip.Addr{}, nil)
		r, err := index.Match(&query)
		if r == nil {
			fmt.Println(target, "goes by no route", err)
			continue
		}
		fmt.Println(target, "goes by", r.Name)
	}
	for _, v := range index.Explain(&query, 10) {
		fmt.Printf("%s: %s is %q, want %s\n", v.Route.Name, v.Field, v.Got, v.Want)
	}
	// Output:
	// /java/x goes by java
	// /java//%61dmin/x goes by admin
	// / goes by no route <nil>
	// admin: path is "/", want /java/admin/*
	// java: path is "/", want /java/*
}
