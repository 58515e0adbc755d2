// Package difference says how two values differ: field by field in a line, or as text,
// line by line.
package difference

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// Fields lists the fields in which two JSON values differ, in the order of the new one and
// then of the old: "port: 8080 -> 8081", "+ labels.app: web", "- comment: new". A value
// that is no object is one field without a name.
func Fields(before, after []byte) []string {
	was, now := flatten(before), flatten(after)
	var all []string
	for _, path := range now.order {
		old, there := was.values[path]
		switch value := now.values[path]; {
		case !there:
			all = append(all, "+ "+path+value)
		case old != value:
			all = append(all, path+old+" -> "+value)
		}
	}
	for _, path := range was.order {
		if _, there := now.values[path]; !there {
			all = append(all, "- "+path+was.values[path])
		}
	}
	return all
}

// fields are the leaves of a value, by their paths, each with ": " at its end.
type fields struct {
	order  []string
	values map[string]string
}

func flatten(value []byte) *fields {
	f := &fields{values: map[string]string{}}
	if len(value) == 0 {
		return f
	}
	dec := json.NewDecoder(bytes.NewReader(value))
	dec.UseNumber()
	if !json.Valid(value) || !f.walk(dec, "") {
		f.order, f.values = []string{""}, map[string]string{"": string(value)}
	}
	return f
}

func (f *fields) walk(dec *json.Decoder, path string) bool {
	t, err := dec.Token()
	if err != nil {
		return false
	}
	if t != json.Delim('{') {
		if open, ok := t.(json.Delim); ok && open == '[' {
			return f.list(dec, path)
		}
		f.leaf(path, fmt.Sprint(t))
		return true
	}
	empty := true
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return false
		}
		empty = false
		at := fmt.Sprint(name)
		if path != "" {
			at = path + "." + at
		}
		if !f.walk(dec, at) {
			return false
		}
	}
	_, err = dec.Token()
	if empty {
		f.leaf(path, "{}")
	}
	return err == nil
}

// list makes one leaf of a list: where something is put into it, the others would move.
func (f *fields) list(dec *json.Decoder, path string) bool {
	var items []string
	for dec.More() {
		var item json.RawMessage
		if dec.Decode(&item) != nil {
			return false
		}
		var s string
		if json.Unmarshal(item, &s) != nil {
			s = string(item)
		}
		items = append(items, s)
	}
	_, err := dec.Token()
	f.leaf(path, "["+strings.Join(items, ", ")+"]")
	return err == nil
}

func (f *fields) leaf(path, value string) {
	if path != "" {
		path += ": "
	}
	if _, there := f.values[path]; !there {
		f.order = append(f.order, path)
	}
	f.values[path] = value
}
