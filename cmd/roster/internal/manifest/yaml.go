package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v2"
)

// maxNodes bounds what aliases make of a file, far above any set that fits a
// transaction.
const maxNodes = 1 << 20

// parseYAML reads the documents of a YAML file. Empty ones are left out. The library
// keeps no positions of values, only those of syntax errors.
func parseYAML(data []byte) (docs []*node, err error) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var doc document
		if err := dec.Decode(&doc); err == io.EOF {
			return docs, nil
		} else if err != nil {
			return nil, yamlError(err)
		}
		if doc.merged == nil {
			continue
		}
		nodes := 0
		n, err := fromYAML(doc.ordered, doc.merged, 0, &nodes)
		if err != nil {
			return nil, err
		}
		docs = append(docs, n)
	}
}

// document is a document read twice, because the library does either: keep the order
// of names and those that are there twice, or fill in what << merges.
type document struct{ ordered, merged any }

func (d *document) UnmarshalYAML(unmarshal func(any) error) error {
	if err := unmarshal(&d.merged); err != nil {
		return err
	}
	if _, ok := d.merged.(map[any]any); !ok {
		d.ordered = d.merged
		return nil
	}
	var m yaml.MapSlice
	err := unmarshal(&m)
	d.ordered = m
	return err
}

var yamlLine = regexp.MustCompile(`^line (\d+): `)

func yamlError(err error) error {
	msg := strings.TrimPrefix(err.Error(), "yaml: ")
	if m := yamlLine.FindStringSubmatch(msg); m != nil {
		if line, err := strconv.Atoi(m[1]); err == nil {
			return &syntaxError{line: line, msg: "not YAML: " + msg[len(m[0]):]}
		}
	}
	return errors.New("not YAML: " + msg)
}

// fromYAML makes a node of a value as it was read in order, and adds what was merged
// into its maps.
func fromYAML(v, merged any, depth int, nodes *int) (*node, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("nested deeper than %d", maxDepth)
	}
	if *nodes++; *nodes > maxNodes {
		return nil, fmt.Errorf("more than %d values, aliases counted as often as they are used", maxNodes)
	}
	switch v := v.(type) {
	case nil:
		return &node{text: "null"}, nil
	case string:
		return &node{shape: text, text: v}, nil
	case bool, int, int64, uint64:
		return &node{text: fmt.Sprint(v)}, nil
	case float64:
		if math.IsInf(v, 0) || math.IsNaN(v) {
			return nil, fmt.Errorf("%v is no number that JSON can hold", v)
		}
		number, err := json.Marshal(v)
		return &node{text: string(number)}, err
	case []any:
		n := &node{shape: list}
		all, _ := merged.([]any)
		for i, item := range v {
			var m any
			if i < len(all) {
				m = all[i]
			}
			item, err := fromYAML(item, m, depth+1, nodes)
			if err != nil {
				return nil, err
			}
			n.items = append(n.items, item)
		}
		return n, nil
	case yaml.MapSlice:
		all, _ := merged.(map[any]any)
		return fromMap(v, all, depth, nodes)
	case map[any]any: // merged, and so not read in order
		var m yaml.MapSlice
		for k, v := range v {
			m = append(m, yaml.MapItem{Key: k, Value: v})
		}
		slices.SortFunc(m, func(a, b yaml.MapItem) int {
			return strings.Compare(fmt.Sprint(a.Key), fmt.Sprint(b.Key))
		})
		return fromMap(m, nil, depth, nodes)
	}
	return nil, fmt.Errorf("a value of type %T cannot be said in JSON", v)
}

func fromMap(v yaml.MapSlice, merged map[any]any, depth int, nodes *int) (*node, error) {
	n := &node{shape: object}
	add := func(name, value, merged any) error {
		s, ok := name.(string)
		if !ok {
			return fmt.Errorf("a name in a map reads as %v in YAML, which is no string: put it in quotes", name)
		}
		m, err := fromYAML(value, merged, depth+1, nodes)
		n.members = append(n.members, member{name: s, value: m})
		return err
	}
	own := map[string]bool{}
	for _, item := range v {
		var m any
		if s, ok := item.Key.(string); ok {
			own[s] = true
			m = merged[s]
		}
		if err := add(item.Key, item.Value, m); err != nil {
			return nil, err
		}
	}
	var names []string
	for name := range merged {
		if s, ok := name.(string); ok && !own[s] {
			names = append(names, s)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		if err := add(name, merged[name], nil); err != nil {
			return nil, err
		}
	}
	return n, nil
}
