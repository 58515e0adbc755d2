// Package settings fills flags that a command line leaves open: from the environment,
// then from a file.
//
// A flag --drain-delay is ROSTER_DRAIN_DELAY in the environment and drain-delay in the
// file, which is YAML. What can be given several times is a list in the file and has
// commas in the environment. The command line wins over the environment, and that over
// the file.
package settings

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/hashicorp/go-multierror"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v2"

	"roster/cmd/roster/internal/nearest"
)

// Env is the environment's name for a flag.
func Env(flag string) string {
	return "ROSTER_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// FromEnv sets each flag that the command line did not, if the environment has it and
// skip does not name it. An empty variable is as none. The error is a *multierror.Error.
func FromEnv(flags *pflag.FlagSet, lookup func(string) (string, bool), skip ...string) error {
	var errs *multierror.Error
	skipped := map[string]bool{"help": true}
	for _, name := range skip {
		skipped[name] = true
	}
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Changed || skipped[f.Name] {
			return
		}
		value, ok := lookup(Env(f.Name))
		if !ok || value == "" {
			return
		}
		if err := flags.Set(f.Name, value); err != nil {
			errs = multierror.Append(errs, fmt.Errorf("%s is %q: %w", Env(f.Name), value, Cause(err)))
		}
	})
	return errs.ErrorOrNil()
}

// FromFile sets each flag that has not been set yet and that the file names. Names
// that are no flags are errors. The error is a *multierror.Error.
func FromFile(flags *pflag.FlagSet, file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return multierror.Append(nil, err)
	}
	var doc yaml.MapSlice
	dec := yaml.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(&doc); err != nil && err != io.EOF {
		return multierror.Append(nil, fmt.Errorf("%s: want flags' names and their values, such as drain-delay: 5s: %w", file, err))
	}
	if err := dec.Decode(new(yaml.MapSlice)); err != io.EOF {
		return multierror.Append(nil, fmt.Errorf("%s: holds more than one document, want one", file))
	}
	var asWritten map[string]written
	if err := yaml.Unmarshal(data, &asWritten); err != nil {
		return multierror.Append(nil, fmt.Errorf("%s: %w", file, err))
	}
	var errs *multierror.Error
	fail := func(name, format string, args ...any) {
		errs = multierror.Append(errs, fmt.Errorf("%s: %s: %w", file, name, fmt.Errorf(format, args...)))
	}
	seen := map[string]bool{}
	for _, item := range doc {
		name := fmt.Sprint(item.Key)
		f := flags.Lookup(name)
		switch {
		case f == nil || name == "help" || name == "config":
			if near := nearest.Word(name, names(flags)); near != "" {
				fail(name, "is not a setting, did you mean %s?", near)
			} else {
				fail(name, "is not a setting; roster node --help lists them")
			}
			continue
		case seen[name]:
			fail(name, "is given twice")
			continue
		case f.Changed:
			seen[name] = true
			continue
		}
		seen[name] = true
		values, err := texts(item.Value, asWritten[name])
		if is, ok := item.Value.(bool); ok && f.Value.Type() == "bool" {
			values = []string{fmt.Sprint(is)} // yes and on, too
		}
		if err != nil {
			fail(name, "%w", err)
			continue
		}
		if _, many := f.Value.(pflag.SliceValue); !many && len(values) != 1 {
			fail(name, "is a list, want one value")
			continue
		}
		for _, v := range values {
			if err := flags.Set(name, v); err != nil {
				fail(name, "is %q: %w", v, Cause(err))
			}
		}
	}
	return errs.ErrorOrNil()
}

func names(flags *pflag.FlagSet) []string {
	var all []string
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Name != "help" && f.Name != "config" {
			all = append(all, f.Name)
		}
	})
	return all
}

// texts are a setting's values as flags take them: as the file has them.
func texts(v any, as written) ([]string, error) {
	switch v := v.(type) {
	case nil:
		return nil, errors.New("has no value")
	case []any:
		for _, item := range v {
			switch item.(type) {
			case nil, []any, yaml.MapSlice:
				return nil, errors.New("is a list of other things than values, want a list of values")
			}
		}
	case yaml.MapSlice:
		return nil, errors.New("is a map, want a value")
	}
	return as, nil
}

// written is a value, or a list of them, as it stands in the file. To YAML, off is
// false, 0644 is 420, and 1:30 is 90.
type written []string

// UnmarshalYAML leaves out what is neither.
func (w *written) UnmarshalYAML(unmarshal func(any) error) error {
	var one string
	if unmarshal(&one) == nil {
		*w = written{one}
		return nil
	}
	var list []string
	if unmarshal(&list) == nil {
		*w = list
	}
	return nil
}

// Cause is what is wrong with a flag's value by the error of its Set, without the words that
// name the flag.
func Cause(err error) error {
	var invalid *pflag.InvalidValueError
	if errors.As(err, &invalid) {
		err = invalid.Unwrap()
	}
	var number *strconv.NumError
	switch {
	case !errors.As(err, &number):
		return err
	case number.Err == strconv.ErrRange:
		return errors.New("is too large or too small")
	case number.Func == "ParseBool":
		return errors.New("want true or false")
	case number.Func == "ParseFloat":
		return errors.New("want a number")
	}
	return errors.New("want a whole number")
}
