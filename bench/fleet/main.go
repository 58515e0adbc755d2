//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"roster/bench/internal/rig"
)

// options are the flags.
type options struct {
	nodes, proxied         string
	watchers, members      int
	proxies                int
	backends               int
	puts, slowPuts         int
	every, slowEvery, rest time.Duration
	etcdMembers            int
	fsync                  bool
	roster, etcd           string
	json                   string
}

const manual = `Fleet measures how a change comes to all nodes of a fleet, and what it costs etcd: puts to
served on processes of the built binary, and etcd's CPU time for simulated nodes, with and
without etcd's grpc-proxy.

Usage: go run ./bench/fleet [flags]

  go run ./bench/fleet                                  all of it, about a quarter of an hour
  go run ./bench/fleet -nodes 1,3 -proxied "" -watchers 0 -members 0
                                                        two fleets of processes only
  go run ./bench/fleet -nodes "" -proxied "" -members 0 -watchers 1000
                                                        1,000 watchers, directly and behind a proxy

With make: make bench-fleet FLEET="-nodes 1,3". The tables go to standard output, progress to
standard error.

Flags:
`

func main() {
	o, err := parse(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "fleet:", err)
		os.Exit(1)
	}
}

func parse(args []string, out io.Writer) (o options, err error) {
	f := flag.NewFlagSet("fleet", flag.ContinueOnError)
	f.SetOutput(out)
	f.StringVar(&o.nodes, "nodes", "1,3,10,50", "`sizes` of fleets of processes")
	f.StringVar(&o.proxied, "proxied", "3,10", "`sizes` of fleets of processes behind grpc-proxies")
	f.IntVar(&o.watchers, "watchers", 1000, "`number` of simulated nodes that only watch; 0 for none")
	f.IntVar(&o.members, "members", 1000, "`number` of simulated nodes that have presence, too; 0 for none")
	f.IntVar(&o.proxies, "proxies", 1, "`number` of grpc-proxies, where there are any; 0 leaves these cases out")
	f.IntVar(&o.backends, "backends", 1000, "`number` of backends that stay as they are")
	f.IntVar(&o.puts, "puts", 100, "`number` of puts to processes, once with and once without requests")
	f.DurationVar(&o.every, "every", 250*time.Millisecond, "`pause` from one of these puts to the next")
	f.IntVar(&o.slowPuts, "slow-puts", 20, "`number` of puts to simulated nodes")
	f.DurationVar(&o.slowEvery, "slow-every", 3*time.Second, "`pause` from one of these puts to the next; more than a second, or presence is not written for each")
	f.DurationVar(&o.rest, "rest", 20*time.Second, "how `long` the CPU time at rest is measured")
	f.IntVar(&o.etcdMembers, "etcd-members", 1, "`number` of members of etcd")
	f.BoolVar(&o.fsync, "fsync", false, "let etcd sync its log to disk; without it, times are not of the disk")
	f.StringVar(&o.roster, "roster", "", "the `binary`; none builds it")
	f.StringVar(&o.etcd, "etcd", "", "etcd's `binary`; none builds it")
	f.StringVar(&o.json, "json", "", "`file` for all figures; - for standard output instead of the tables")
	f.Usage = func() {
		fmt.Fprint(f.Output(), manual)
		f.PrintDefaults()
	}
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		err = fmt.Errorf("what is %q? See -help", f.Arg(0))
		fmt.Fprintln(out, "fleet:", err)
	}
	return o, err
}

// kind is what the nodes of a scene are.
type kind string

const (
	processes kind = "processes"
	watchers  kind = "watchers"
	members   kind = "members"
)

// scene is one fleet to measure.
type scene struct {
	kind    kind
	nodes   int
	proxies int
}

func (s scene) name() string { return fmt.Sprintf("%s-%d-%d", s.kind, s.nodes, s.proxies) }

// scenes are those that were asked for.
func (o options) scenes() (all []scene, err error) {
	sizes := func(flag, list string, proxies int) {
		for part := range strings.SplitSeq(list, ",") {
			if part == "" || flag == "proxied" && proxies == 0 {
				continue
			}
			n, one := strconv.Atoi(part)
			if one != nil || n < 1 || n > 500 {
				err = errors.Join(err, fmt.Errorf("-%s has %q, want numbers from 1 to 500", flag, part))
				continue
			}
			all = append(all, scene{processes, n, proxies})
		}
	}
	sizes("nodes", o.nodes, 0)
	sizes("proxied", o.proxied, o.proxies)
	for _, simulated := range []scene{{watchers, o.watchers, 0}, {watchers, o.watchers, o.proxies}, {members, o.members, 0}, {members, o.members, o.proxies}} {
		switch last := len(all) - 1; {
		case simulated.nodes < 0 || simulated.nodes > 10000:
			err = errors.Join(err, fmt.Errorf("-%s is %d, want 0 to 10000", simulated.kind, simulated.nodes))
		case simulated.nodes > 0 && (last < 0 || all[last] != simulated):
			all = append(all, simulated)
		}
	}
	for name, v := range map[string]int{"puts": o.puts, "slow-puts": o.slowPuts, "etcd-members": o.etcdMembers} {
		if v < 1 {
			err = errors.Join(err, fmt.Errorf("-%s is %d, want 1 or more", name, v))
		}
	}
	for name, v := range map[string]time.Duration{"every": o.every, "slow-every": o.slowEvery, "rest": o.rest} {
		if v <= 0 {
			err = errors.Join(err, fmt.Errorf("-%s is %v, want more than 0", name, v))
		}
	}
	if o.proxies < 0 || o.backends < 0 {
		err = errors.Join(err, fmt.Errorf("-proxies is %d and -backends %d, want 0 or more", o.proxies, o.backends))
	}
	if err == nil && len(all) == 0 {
		err = errors.New("nothing to measure, want some of -nodes, -proxied, -watchers and -members")
	}
	return all, err
}

// lab has what fleets are started with.
type lab struct {
	*rig.Processes
	roster, etcd string // binaries
	origin       string // address of what all backends' requests go to
	members      int
	fsync        bool
	settle       time.Duration // after many nodes have started, until etcd is at rest
}

// run measures all scenes, and ends what it started.
func run(ctx context.Context, o options, out, progress io.Writer) (err error) {
	scenes, err := o.scenes()
	if err != nil {
		return err
	}
	if err := moreFiles(scenes); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "roster-fleet-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	l := &lab{Processes: rig.NewProcesses(dir, false), roster: o.roster, etcd: o.etcd, members: o.etcdMembers, fsync: o.fsync, settle: max(o.rest/2, 2*time.Second)}
	defer l.End()
	for _, b := range []struct {
		binary    *string
		name, pkg string
	}{{&l.roster, "roster", "roster/cmd/roster"}, {&l.etcd, "etcd", "go.etcd.io/etcd/server/v3"}} {
		if *b.binary != "" {
			continue
		}
		*b.binary = filepath.Join(dir, b.name)
		fmt.Fprintf(progress, "building %s\n", b.name)
		if err := rig.Build(ctx, b.pkg, *b.binary); err != nil {
			return err
		}
	}
	origin, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Host) })}
	go server.Serve(origin)
	defer server.Close()
	l.origin = origin.Addr().String()

	all := report{Began: time.Now(), Machine: rig.Machine(), Load: []string{rig.LoadAverage()}, Options: o.String()}
	for _, s := range scenes {
		fmt.Fprintf(progress, "%d %s, %d proxies\n", s.nodes, s.kind, s.proxies)
		measure := func() (result, error) { return l.measureNodes(ctx, o, s) }
		if s.kind != processes {
			measure = func() (result, error) { return l.measureSimulated(ctx, o, s, progress) }
		}
		r, one := measure()
		if one != nil {
			fmt.Fprintf(progress, "   failed: %v\n", one)
			err = errors.Join(err, fmt.Errorf("%d %s, %d proxies: %w", s.nodes, s.kind, s.proxies, one))
			if ctx.Err() != nil {
				break
			}
			continue
		}
		r.Kind, r.Nodes, r.Proxies = s.kind, s.nodes, s.proxies
		r.count()
		all.Results = append(all.Results, r)
	}
	if len(all.Results) == 0 {
		return err
	}
	all.Load = append(all.Load, rig.LoadAverage())
	if o.json == "" {
		all.write(out)
		return err
	}
	data, _ := json.MarshalIndent(all, "", "  ") // it has nothing that cannot be written
	if o.json == "-" {
		_, one := fmt.Fprintf(out, "%s\n", data)
		return errors.Join(err, one)
	}
	all.write(out)
	return errors.Join(err, os.WriteFile(o.json, append(data, '\n'), 0o644))
}

// String says what the figures are of.
func (o options) String() string {
	disk := "without fsync"
	if o.fsync {
		disk = "with fsync"
	}
	return fmt.Sprintf("etcd of %d members, %s; %d backends. A put every %v to processes, every %v to simulated nodes.",
		o.etcdMembers, disk, o.backends, o.every, o.slowEvery)
}

// moreFiles raises the limit of open files to what the largest fleet needs.
func moreFiles(scenes []scene) error {
	need := uint64(1024)
	for _, s := range scenes {
		need = max(need, 1024+4*uint64(s.nodes))
	}
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return os.NewSyscallError("getrlimit", err)
	}
	if files.Max < need {
		return fmt.Errorf("%d open files are needed, and the hard limit is %d: ulimit -Hn", need, files.Max)
	}
	files.Cur = files.Max
	return os.NewSyscallError("setrlimit", unix.Setrlimit(unix.RLIMIT_NOFILE, &files))
}
