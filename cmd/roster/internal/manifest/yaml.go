package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Limits of what aliases make of a file, far above any set that fits a transaction.
const (
	maxNodes = 1 << 20
	maxText  = 64 << 20 // bytes
)

// parseYAML reads the documents of a YAML file. Empty ones are left out.
func parseYAML(data []byte) (docs []*node, err error) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var doc yaml.Node
		if err := dec.Decode(&doc); err == io.EOF {
			return docs, nil
		} else if err != nil {
			return nil, yamlError(err)
		}
		if len(doc.Content) != 1 || doc.Content[0].ShortTag() == "!!null" {
			continue
		}
		p := yamlParser{}
		n, err := p.value(doc.Content[0], 0)
		if err != nil {
			return nil, err
		}
		docs = append(docs, n)
	}
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

// yamlParser makes nodes of YAML's, with aliases and merge keys filled in.
type yamlParser struct {
	nodes, text int
	open        []*yaml.Node // the aliased values that are being read
}

func fault(y *yaml.Node, format string, args ...any) error {
	return &syntaxError{line: y.Line, column: y.Column, msg: fmt.Sprintf(format, args...)}
}

func (p *yamlParser) value(y *yaml.Node, depth int) (*node, error) {
	p.nodes++
	p.text += len(y.Value)
	switch {
	case depth > maxDepth:
		return nil, fault(y, "nested deeper than %d", maxDepth)
	case p.nodes > maxNodes:
		return nil, fault(y, "more than %d values, aliases counted as often as they are used", maxNodes)
	case p.text > maxText:
		return nil, fault(y, "more than %d bytes, aliases counted as often as they are used", maxText)
	}
	n := &node{line: y.Line, column: y.Column}
	switch y.Kind {
	case yaml.AliasNode:
		for _, open := range p.open {
			if open == y.Alias {
				return nil, fault(y, "the anchor %s holds itself", y.Value)
			}
		}
		p.open = append(p.open, y.Alias)
		n, err := p.value(y.Alias, depth)
		p.open = p.open[:len(p.open)-1]
		return n, err
	case yaml.SequenceNode:
		n.shape = list
		for _, item := range y.Content {
			item, err := p.value(item, depth+1)
			if err != nil {
				return nil, err
			}
			n.items = append(n.items, item)
		}
		return n, nil
	case yaml.MappingNode:
		n.shape = object
		return n, p.members(n, y, depth)
	}
	return n, scalarOf(n, y)
}

// members reads a map: its own names as they come, also those that are there twice, and
// then what << merges, as far as it has no name of that itself.
func (p *yamlParser) members(n *node, y *yaml.Node, depth int) error {
	var merged []*yaml.Node
	own := map[string]bool{}
	for i := 0; i+1 < len(y.Content); i += 2 {
		key, value := y.Content[i], y.Content[i+1]
		if key.ShortTag() == "!!merge" {
			merged = append(merged, value)
			continue
		}
		if key.Kind == yaml.AliasNode {
			key = key.Alias
		}
		if key.Kind != yaml.ScalarNode || key.ShortTag() == "!!null" {
			return fault(y.Content[i], "a name in a map is no string: put it in quotes")
		}
		// As it is written: to YAML, on: is true, and 1: a number.
		v, err := p.value(value, depth+1)
		if err != nil {
			return err
		}
		p.text += len(key.Value)
		own[key.Value] = true
		n.members = append(n.members, member{name: key.Value, line: y.Content[i].Line, column: y.Content[i].Column, value: v})
	}
	for _, m := range merged {
		v, err := p.value(m, depth+1)
		if err != nil {
			return err
		}
		maps := []*node{v}
		if v.shape == list {
			maps = v.items
		}
		for _, v := range maps {
			if v.shape != object {
				return fault(m, "<< is %s, want a map, or a list of maps", v.what())
			}
			for _, m := range v.members {
				if !own[m.name] {
					own[m.name] = true
					n.members = append(n.members, m)
				}
			}
		}
	}
	return nil
}

// scalarOf reads a value that is neither a list nor a map.
func scalarOf(n *node, y *yaml.Node) error {
	switch tag := y.ShortTag(); tag {
	case "!!null":
		n.text = "null"
	case "!!bool":
		n.text = strings.ToLower(y.Value)
		if n.text != "true" && n.text != "false" { // !!bool yes
			n.text = strconv.FormatBool(yes[n.text])
		}
	case "!!int", "!!float":
		var v any
		if err := y.Decode(&v); err != nil {
			return fault(y, "not YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
		}
		if f, ok := v.(float64); ok {
			if math.IsInf(f, 0) || math.IsNaN(f) {
				return fault(y, "%v is no number that JSON can hold", f)
			}
			number, err := json.Marshal(f)
			n.text = string(number)
			return err
		}
		n.text = fmt.Sprint(v)
	case "!!str", "!!timestamp":
		n.shape, n.text = text, y.Value
		// YAML 1.1 has more words for true and false. They are strings, unless a
		// definition wants true or false there.
		is, known := yes[strings.ToLower(y.Value)]
		n.maybe = known && y.Style == 0
		n.is = is
	default:
		return fault(y, "a value of type %s cannot be said in JSON", tag)
	}
	return nil
}

var yes = map[string]bool{"y": true, "yes": true, "on": true, "n": false, "no": false, "off": false}
