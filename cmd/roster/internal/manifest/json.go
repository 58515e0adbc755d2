package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// maxDepth is how deep a value may nest: the definitions' own limit is 32, below a
// kind and a name.
const maxDepth = 40

// syntaxError is a fault after which a file is not read on.
type syntaxError struct {
	line, column int
	msg          string
}

func (e *syntaxError) Error() string { return e.msg }

// parseJSON reads JSON values, one after the other.
func parseJSON(data []byte) ([]*node, error) {
	p := &jsonParser{data: data, dec: json.NewDecoder(bytes.NewReader(data))}
	p.dec.UseNumber()
	var docs []*node
	for {
		n, err := p.value(0)
		if err == io.EOF {
			return docs, nil
		}
		if err != nil {
			return nil, p.wrap(err)
		}
		docs = append(docs, n)
	}
}

type jsonParser struct {
	data []byte
	dec  *json.Decoder
	// The position of offset, kept so that counting lines is done once.
	offset, line, start int
}

func (p *jsonParser) wrap(err error) error {
	var bad *json.SyntaxError
	offset := int(p.dec.InputOffset())
	if errors.As(err, &bad) {
		offset = int(bad.Offset) - 1
	}
	if err == io.ErrUnexpectedEOF {
		offset = len(p.data)
		err = errors.New("the file ends in the middle of a value")
	}
	line, column := p.position(offset)
	return &syntaxError{line, column, "not JSON: " + err.Error()}
}

// position turns an offset, which must not be below an earlier one, into line and
// column.
func (p *jsonParser) position(offset int) (line, column int) {
	offset = min(max(offset, p.offset), len(p.data))
	for i, c := range p.data[p.offset:offset] {
		if c == '\n' {
			p.line++
			p.start = p.offset + i + 1
		}
	}
	p.offset = offset
	return p.line + 1, offset - p.start + 1
}

// next is the offset of the token that follows.
func (p *jsonParser) next() int {
	i := int(p.dec.InputOffset())
	for i < len(p.data) && bytes.IndexByte([]byte(" \t\r\n,:"), p.data[i]) >= 0 {
		i++
	}
	return i
}

func (p *jsonParser) value(depth int) (*node, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("nested deeper than %d", maxDepth)
	}
	at := p.next()
	token, err := p.dec.Token()
	if err != nil {
		if err == io.EOF && depth > 0 {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	n := &node{}
	n.line, n.column = p.position(at)
	switch t := token.(type) {
	case json.Delim:
		if t == '[' {
			n.shape = list
			return n, p.list(n, depth)
		}
		n.shape = object
		return n, p.object(n, depth)
	case string:
		n.shape, n.text = text, t
	case json.Number:
		n.text = t.String()
	case bool:
		n.text = fmt.Sprint(t)
	case nil:
		n.text = "null"
	}
	return n, nil
}

func (p *jsonParser) list(n *node, depth int) error {
	for p.dec.More() {
		item, err := p.value(depth + 1)
		if err != nil {
			return err
		}
		n.items = append(n.items, item)
	}
	return p.close()
}

func (p *jsonParser) object(n *node, depth int) error {
	for p.dec.More() {
		var m member
		m.line, m.column = p.position(p.next())
		name, err := p.dec.Token()
		if err == io.EOF {
			return io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
		m.name = name.(string) // the decoder takes nothing else there
		if m.value, err = p.value(depth + 1); err != nil {
			return err
		}
		n.members = append(n.members, m)
	}
	return p.close()
}

func (p *jsonParser) close() error {
	_, err := p.dec.Token()
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
