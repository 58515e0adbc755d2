//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"roster/bench/internal/rig"
)

// options are the flags.
type options struct {
	scenarios   string
	rounds      int
	seconds     int
	connections int
	idle, fleet int
	unpinned    bool
	open        bool
	features    bool
	calls       bool
	origin      string
	roster      string
	other       string
	json        string
	beside      string
}

const manual = `Peers compares roster with HAProxy and nginx as proxies on loopback: CPU time of a
request, requests per second, times and memory, and their ratios to HAProxy's by round.

Usage: go run ./bench/peers [flags]

  go run ./bench/peers                              all scenarios, five rounds of 2 s
  go run ./bench/peers -scenarios a,c -rounds 9     two of them, more rounds
  go run ./bench/peers -unpinned -origin nginx      as the system places the threads
  go run ./bench/peers -json all.json               every round's figures, too
  go run ./bench/peers -scenarios c -other ./before what a change did
  go run ./bench/peers -open -scenarios a           p99 at 60 %% of what HAProxy bears
  go run ./bench/peers -features -scenarios a       what each feature costs
  go run ./bench/peers -calls -scenarios a          system calls of a request
  go run ./bench/peers -scenarios a -rounds 1 -beside 'strace -c -f -o calls -p $PIDS'
                                                    where the cost goes

With make: make bench-peers PEERS="-scenarios a,c". The table goes to standard output,
progress to standard error. Scenarios:

%s
Flags:
`

// serveOrigin is the argument, before a port, that makes this program the origin.
const serveOrigin = "-serve-origin"

func main() {
	if len(os.Args) == 3 && os.Args[1] == pacedLoad {
		fail(runPaced(os.Args[2], os.Stdout))
		return
	}
	if len(os.Args) == 3 && os.Args[1] == serveOrigin {
		var port int
		fmt.Sscan(os.Args[2], &port)
		fail(runOrigin(port))
	}
	o := parse(os.Args[1:])
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	fail(run(ctx, o, os.Stdout, os.Stderr))
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func parse(args []string) options {
	var o options
	f := flag.NewFlagSet("peers", flag.ExitOnError)
	f.StringVar(&o.scenarios, "scenarios", "abcdefghij", "`letters` of the scenarios to run")
	f.IntVar(&o.rounds, "rounds", 5, "`number` of rounds, besides one to warm up")
	f.IntVar(&o.seconds, "seconds", 2, "how long each proxy is loaded in a round, in whole `seconds`")
	f.IntVar(&o.connections, "connections", 64, "`number` of busy client connections")
	f.IntVar(&o.idle, "idle", 5000, "`number` of idle connections of scenario h")
	f.IntVar(&o.fleet, "backends", 10000, "`number` of backends of scenarios i and j")
	f.BoolVar(&o.unpinned, "unpinned", false, "let the system place all threads, and proxies use all cores")
	f.BoolVar(&o.open, "open", false, "times at a fixed rate, 60 % of what HAProxy bears, instead of CPU time: for scenarios a and b")
	f.BoolVar(&o.features, "features", false, "roster with a feature each beside one without, instead of the other proxies")
	f.BoolVar(&o.calls, "calls", false, "count system calls of a request in one more round, by perf stat")
	f.StringVar(&o.origin, "origin", "tiny", "`tiny` (a loop of this program) or nginx; scenarios i and j have always tiny")
	f.StringVar(&o.roster, "roster", "", "the `binary`; none builds it")
	f.StringVar(&o.other, "other", "", "another `binary` of roster to compare: before a change, say")
	f.StringVar(&o.json, "json", "", "`file` for all figures of every round; - for standard output instead of the table")
	f.StringVar(&o.beside, "beside", "", "shell `command` to run beside each proxy in one more round; it has PROXY and PIDS in its environment and gets SIGINT at the end")
	f.Usage = func() {
		var list strings.Builder
		for _, s := range scenarios(o.idle, o.fleet) {
			fmt.Fprintf(&list, "  %s  %s\n", s.Key, s.Title)
		}
		fmt.Fprintf(f.Output(), manual, list.String())
		f.PrintDefaults()
	}
	f.Parse(args)
	if f.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "peers: what is %q? See -help\n", f.Arg(0))
		os.Exit(2)
	}
	return o
}

// check says what is wrong with the options or missing on this machine.
func (o options) check(chosen []scenario) error {
	var errs []error
	for name, v := range map[string]int{"rounds": o.rounds, "seconds": o.seconds, "connections": o.connections, "backends": o.fleet} {
		if v < 1 {
			errs = append(errs, fmt.Errorf("-%s is %d, want 1 or more", name, v))
		}
	}
	if o.fleet > 15000 || o.idle < 0 || o.idle > 7000 {
		errs = append(errs, fmt.Errorf("-backends is %d and -idle %d, want at most 15000 and 7000", o.fleet, o.idle))
	}
	if o.origin != "tiny" && o.origin != nginx {
		errs = append(errs, fmt.Errorf("-origin is %q, want tiny or nginx", o.origin))
	}
	if !o.unpinned && runtime.NumCPU() < 2 {
		errs = append(errs, errors.New("pinning needs two cores: use -unpinned"))
	}
	for _, s := range chosen {
		if o.open && (s.tls || s.close || s.post > 0 || s.fleet > 0 || s.idle > 0 || s.splice) {
			errs = append(errs, fmt.Errorf("-open is for scenarios a and b, not %s", s.Key))
		}
		if o.features && (s.fleet > 0 || s.tls) {
			errs = append(errs, fmt.Errorf("-features is for scenarios of one backend without TLS, not %s", s.Key))
		}
	}
	if o.open && o.features {
		errs = append(errs, errors.New("-open and -features are two different measurements"))
	}
	if _, err := exec.LookPath("perf"); o.calls && err != nil {
		errs = append(errs, errors.New("perf is missing, which -calls needs: apt-get install linux-perf"))
	}
	errs = append(errs, programs(chosen)...)
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err == nil && files.Max < descriptors {
		for _, s := range chosen {
			if s.fleet > 0 || s.idle > 0 {
				errs = append(errs, fmt.Errorf("scenario %s needs %d open files, and the hard limit is %d: ulimit -Hn", s.Key, descriptors, files.Max))
			}
		}
	}
	return errors.Join(errs...)
}

// morePath is where Debian keeps servers and only root's PATH looks.
const morePath = ":/usr/local/sbin:/usr/sbin"

// programs says which programs are missing for scenarios.
func programs(chosen []scenario) (errs []error) {
	packages := map[string]string{haproxy: haproxy, nginx: "nginx-light", "wrk": "wrk"}
	if slices.ContainsFunc(chosen, func(s scenario) bool { return s.h2 }) {
		packages["h2load"] = "nghttp2-client"
	}
	os.Setenv("PATH", os.Getenv("PATH")+morePath)
	for name, pkg := range packages {
		if _, err := exec.LookPath(name); err != nil {
			errs = append(errs, fmt.Errorf("%s is missing: apt-get install %s", name, pkg))
		}
	}
	return errs
}

// run does all of it and ends what it started.
func run(ctx context.Context, o options, out, progress io.Writer) (err error) {
	chosen, err := choose(scenarios(o.idle, o.fleet), o.scenarios)
	if err != nil {
		return err
	}
	if err := o.check(chosen); err != nil {
		return err
	}
	// Each start and each round is bounded, too: this is for what nobody thought of.
	loads := len(chosen) * (o.rounds + 3) * (len(kinds) + len(features))
	ctx, cancel := context.WithTimeoutCause(ctx, 3*time.Minute+time.Duration(loads*(2*o.seconds+5))*time.Second, errors.New("it takes far too long"))
	defer cancel()

	dir, err := os.MkdirTemp("", "roster-peers-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	l := &lab{Processes: rig.NewProcesses(dir, !o.unpinned), origins: o.origin, pem: filepath.Join(dir, "pem")}
	if o.other != "" {
		if l.other, err = filepath.Abs(o.other); err != nil {
			return err
		}
	}
	fmt.Fprintln(progress, "building roster and starting its etcd")
	if err := l.buildRoster(ctx, o.roster); err != nil {
		return err
	}
	if err := writeCertificate(l.pem); err != nil {
		return err
	}
	if !o.unpinned {
		if err := rig.PinSelf(); err != nil {
			return err
		}
	}
	defer l.End()
	if err := l.startEtcd(ctx); err != nil {
		return err
	}
	etcd := slices.Clone(l.Running)
	all := report{Began: time.Now(), Machine: rig.Machine(), Programs: versions(l.roster), Pinned: !o.unpinned, Origin: o.origin,
		Rounds: o.rounds, Seconds: o.seconds, Connections: o.connections, Load: []string{rig.LoadAverage()}}
	for _, s := range chosen {
		if ctx.Err() != nil {
			err = errors.Join(err, context.Cause(ctx))
			break
		}
		r, one := o.measure(ctx, l, s, progress)
		if one != nil {
			fmt.Fprintf(progress, "   failed: %v\n", one)
			err = errors.Join(err, fmt.Errorf("scenario %s: %w", s.Key, one))
		} else {
			all.Results = append(all.Results, r)
		}
		l.End(slices.DeleteFunc(slices.Clone(l.Running), func(q *rig.Process) bool { return slices.Contains(etcd, q) })...)
	}
	if len(all.Results) == 0 {
		return err
	}
	all.Load = append(all.Load, rig.LoadAverage())
	return errors.Join(err, all.write(o, out))
}

// measure runs one scenario.
func (o options) measure(ctx context.Context, l *lab, s scenario, progress io.Writer) (r result, err error) {
	r = result{Scenario: s.Key, Title: s.Title, Aim: s.Aim, Against: haproxy}
	started := kinds
	switch {
	case o.features:
		r.Against, r.Aim, started = roster, 0, withFeatures()
	case s.fleet > 0:
		r.Against = single
	}
	fmt.Fprintf(progress, "%s: %s\n", s.Key, s.Title)
	g, err := newGenerator(l.Processes, s, o.connections, o.seconds)
	if err != nil {
		return r, err
	}
	proxies, err := l.start(ctx, s, started)
	if err != nil {
		return r, err
	}
	if o.open {
		return o.measureOpen(ctx, g, proxies, r, progress)
	}
	for _, p := range proxies {
		r.Series = append(r.Series, series{Proxy: p.name})
	}
	for n := range o.rounds + 1 {
		line := fmt.Sprintf("   round %d of %d:", n, o.rounds)
		if n == 0 {
			line = "   warmed up"
		}
		for k := range proxies {
			i := (k + n) % len(proxies)
			if n == 0 && s.fleet > 0 {
				if err := g.visitAll(ctx, proxies[i]); err != nil {
					return r, err
				}
				continue
			}
			one, err := g.measure(ctx, proxies[i], "")
			if err != nil {
				return r, err
			}
			line += fmt.Sprintf("  %s %.1f us", proxies[i].name, one.CPU)
			if n > 0 {
				r.Series[i].Rounds = append(r.Series[i].Rounds, one)
			}
		}
		fmt.Fprintln(progress, line)
	}
	for _, p := range proxies {
		if o.beside != "" {
			one, err := g.measure(ctx, p, o.beside)
			if err != nil {
				return r, err
			}
			fmt.Fprintf(progress, "   beside %s, which answered %d requests:\n%s\n", p.name, one.Requests, one.beside)
		}
	}
	for i, p := range proxies {
		if o.calls {
			if r.Series[i].Calls, err = g.calls(ctx, p); err != nil {
				return r, err
			}
		}
	}
	r.compare()
	return r, nil
}

// visitAll loads a proxy until all of a fleet were asked twice, so that each has its
// connection.
func (g *generator) visitAll(ctx context.Context, p *proxy) error {
	for left := 2 * g.fleet; left > 0; {
		l, err := g.run(ctx, p, g.seconds)
		if err != nil {
			return err
		}
		left -= l.requests
	}
	return nil
}

// measure loads a proxy for one round, with a command beside it if there is one.
func (g *generator) measure(ctx context.Context, p *proxy, beside string) (r round, err error) {
	if g.idle > 0 {
		closing, err := openIdle(ctx, p.address, g.idle)
		if err != nil {
			return r, err
		}
		defer func() {
			closing()
			time.Sleep(300 * time.Millisecond) // the proxy notices, before the next is measured
		}()
		time.Sleep(300 * time.Millisecond)
	}
	end := func() string { return "" }
	if beside != "" {
		if end, err = g.watch(p, beside); err != nil {
			return r, err
		}
	}
	before, err1 := p.process.Usage()
	sourceBefore, err2 := p.source.Usage()
	if err := errors.Join(err1, err2); err != nil {
		return r, err
	}
	resident := make(chan int64)
	go func() {
		time.Sleep(time.Duration(g.seconds) * time.Second * 3 / 4)
		resident <- p.process.Resident()
	}()
	l, err := g.run(ctx, p, g.seconds)
	r.Resident = float64(<-resident)
	r.beside = end()
	if err != nil {
		return r, err
	}
	after, err1 := p.process.Usage()
	sourceAfter, err2 := p.source.Usage()
	if err := errors.Join(err1, err2); err != nil {
		return r, err
	}
	of := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 / float64(l.requests) }
	r.Requests = l.requests
	r.System = of(after.System - before.System)
	r.CPU = r.System + of(after.User-before.User)
	r.All = r.CPU + of(l.cpu+sourceAfter.Sum()-sourceBefore.Sum())
	r.Rate = float64(l.requests) / l.took.Seconds()
	r.P50, r.P99 = float64(l.p50.Microseconds()), float64(l.p99.Microseconds())
	return r, nil
}

// watch starts a command beside a proxy and returns how to end it, with what it said.
func (g *generator) watch(p *proxy, command string) (end func() string, err error) {
	var ids []string
	for _, id := range p.process.IDs() {
		ids = append(ids, fmt.Sprint(id))
	}
	cmd := exec.Command("sh", "-c", "trap : INT; "+command) // what comes after what is interrupted is run, too
	cmd.Env = append(rig.Environment(), "PROXY="+p.name, "PIDS="+strings.Join(ids, ","))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	cmd.WaitDelay = time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := g.Spawn(rig.OtherCore, cmd); err != nil {
		return nil, err
	}
	time.Sleep(500 * time.Millisecond) // it finds all threads
	return func() string {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGINT)
		late := time.AfterFunc(20*time.Second, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
		defer late.Stop()
		cmd.Wait()
		return out.String()
	}, nil
}

// report is all that is put out.
type report struct {
	Began       time.Time `json:"began"`
	Machine     string    `json:"machine"`
	Programs    []string  `json:"programs"`
	Pinned      bool      `json:"pinned"`
	Origin      string    `json:"origin"`
	Rounds      int       `json:"rounds"`
	Seconds     int       `json:"seconds"`
	Connections int       `json:"connections"`
	Load        []string  `json:"load_averages"` // at the beginning, at the end
	Results     []result  `json:"results"`
}

func (a *report) write(o options, out io.Writer) error {
	text, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		return err
	}
	text = append(text, '\n')
	switch o.json {
	case "":
	case "-":
		_, err := out.Write(text)
		return err
	default:
		if err := os.WriteFile(o.json, text, 0o644); err != nil {
			return err
		}
	}
	where := "proxy on core 0, load and origin on core 1"
	if !a.Pinned {
		where = "not pinned"
	}
	fmt.Fprintf(out, "%s; %s\n%s; %s; origin: %s; %d rounds of %d s; %d connections; load average %s before, %s after\n",
		a.Began.Format(time.DateTime), a.Machine, strings.Join(a.Programs, ", "), where, a.Origin, a.Rounds, a.Seconds, a.Connections, a.Load[0], a.Load[1])
	fmt.Fprintln(out, "Medians (least..most) of the rounds; ratios are by round.")
	for i := range a.Results {
		a.Results[i].table(out)
	}
	summary(out, a.Results)
	return nil
}

func versions(binary string) []string {
	list := []string{runtime.Version()}
	for _, command := range [][]string{{binary, "version"}, {haproxy, "-v"}, {nginx, "-v"}, {"wrk", "-v"}} {
		out, _ := exec.Command(command[0], command[1:]...).CombinedOutput() // wrk -v fails
		line, _, _ := strings.Cut(string(out), "\n")
		line, _, _ = strings.Cut(line, " - ")
		line, _, _ = strings.Cut(line, " [")
		list = append(list, line)
	}
	return list
}
