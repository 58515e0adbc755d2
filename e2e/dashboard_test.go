package e2e_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"roster/e2e/harness"
	"roster/node/certs/certstest"
)

// A tab is a page of a headless Chromium of its own. What the page has written to the
// console is in console; at the end of the test there must be nothing.
type tab struct {
	t   testing.TB
	ctx context.Context

	mu       sync.Mutex
	console  []string
	expected []string // parts of lines that may be there
}

// openTab opens a page of a width and height.
func openTab(t testing.TB, url string, width, height int64) *tab {
	t.Helper()
	harness.Require(t, "chromium")
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal(err)
	}
	// A container's root has no user namespaces to build a sandbox of; the pages are ours.
	browser, stop := chromedp.NewExecAllocator(context.Background(),
		append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.IgnoreCertErrors, chromedp.Flag("lang", "en-GB"))...)
	t.Cleanup(stop)
	ctx, closeTab := chromedp.NewContext(browser)
	t.Cleanup(closeTab)
	p := &tab{t: t, ctx: ctx}
	lines := chromedp.Console(ctx)
	go func() {
		for m, err := range lines {
			if err != nil {
				return // the end of the browser
			}
			p.mu.Lock()
			p.console = append(p.console, m.String()+" "+m.URL)
			p.mu.Unlock()
		}
	}()
	t.Cleanup(p.checkConsole)
	p.do(chromedp.EmulateViewport(width, height), chromedp.Navigate(url))
	return p
}

func (p *tab) checkConsole() {
	p.mu.Lock()
	defer p.mu.Unlock()
lines:
	for _, line := range p.console {
		for _, part := range p.expected {
			if strings.Contains(line, part) {
				continue lines
			}
		}
		p.t.Errorf("the page wrote to the console: %s", line)
	}
}

// expect says what may be on the console.
func (p *tab) expect(parts ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.expected = append(p.expected, parts...)
}

func (p *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, harness.WaitLimit)
	defer cancel()
	if p.ctx.Err() == nil && chromedp.FromContext(p.ctx).Target == nil {
		ctx = p.ctx // the first use starts the browser, which lives as long as its context
	}
	if err := chromedp.Do(ctx, steps...); err != nil {
		p.t.Fatal(err)
	}
}

// eval is the value of an expression in the page; null is T's zero value.
func eval[T any](p *tab, expression string) T {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, harness.WaitLimit)
	defer cancel()
	text, err := chromedp.Run(ctx, chromedp.Evaluate[string]("(async () => JSON.stringify(await ("+expression+")) ?? 'null')()", chromedp.EvalAwaitPromise))
	var out T
	if err == nil {
		err = json.Unmarshal([]byte(text), &out)
	}
	if err != nil {
		p.t.Fatalf("%s: %v", expression, err)
	}
	return out
}

// until waits for an expression to be true; state is one that says why not.
func (p *tab) until(what, expression, state string) {
	p.t.Helper()
	harness.Until(p.t, what, func() (bool, any) {
		if eval[bool](p, expression) {
			return true, nil
		}
		return false, eval[any](p, state)
	})
}

// text is the text of an element, as it is shown.
func (p *tab) text(selector string) string {
	p.t.Helper()
	return eval[string](p, "document.querySelector("+quoted(selector)+")?.innerText ?? 'no "+selector+"'")
}

// untilText waits for an element to show some text.
func (p *tab) untilText(selector, part string) {
	p.t.Helper()
	harness.Until(p.t, fmt.Sprintf("%q in %s", part, selector), func() (bool, any) {
		text := p.text(selector)
		return strings.Contains(text, part), text
	})
}

func quoted(s string) string {
	b, _ := json.Marshal(s) // a string has no error
	return string(b)
}

// fill puts a value into a field, as typing it does.
func (p *tab) fill(selector, value string) {
	p.t.Helper()
	eval[bool](p, `((e) => { e.value = `+quoted(value)+`; e.dispatchEvent(new Event("input", {bubbles: true})); return true })(document.querySelector(`+quoted(selector)+`))`)
}

// names are those in a table's first column, in order.
func (p *tab) names(table string) []string {
	p.t.Helper()
	return eval[[]string](p, "[...document.querySelectorAll('#"+table+" tbody tr')].map((r) => r.dataset.key)")
}

// shoot keeps a picture of the page for people, in a folder that git ignores.
func (p *tab) shoot(name string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, harness.WaitLimit)
	defer cancel()
	png, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	if err != nil {
		p.t.Fatal(err)
	}
	dir := filepath.Join(harness.Root(p.t), "e2e", "screenshots")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644); err != nil {
		p.t.Fatal(err)
	}
}

// prefer has the browser prefer a colour scheme.
func (p *tab) prefer(scheme string) {
	p.t.Helper()
	_, err := chromedp.Call(p.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
	})
	if err != nil {
		p.t.Fatal(err)
	}
}

const probeOften = `"probe": {"url": "/", "interval": "200ms", "timeout": "150ms", "window": 8, "threshold": 3}`

// hostile is text that would run if it were taken for markup.
const hostile = `<img src=x onerror="window.pwned=1"><script>window.pwned=2</script>`

// dashboardFleet is three nodes and something of everything.
func dashboardFleet(t *testing.T) (etcd *harness.Etcd, nodes []*harness.Node, origins []*harness.Origin) {
	t.Helper()
	harness.Require(t, "chromium")
	etcd = harness.StartEtcd(t)
	for i := range 3 {
		origins = append(origins, harness.StartOrigin(t, fmt.Sprintf("web-%d", i+1)))
	}
	for i, o := range origins {
		etcd.Put(fmt.Sprintf("/roster/backends/shop/web-%d", i+1), o.Definition(probeOften, `"labels": {"app": "shop", "zone": "`+string(rune('a'+i))+`"}`, `"max_connections": 100`))
	}
	for i := range 5 {
		etcd.Put(fmt.Sprintf("/roster/backends/api/node-%d", i+1), origins[i%3].Definition(`"labels": {"app": "api"}`, `"comment": `+quoted(hostile), probeOften))
	}
	etcd.Put("/roster/backends/static", `{"host": "::1", "port": 8080, "labels": {"note": `+quoted(hostile)+`}}`)
	etcd.Put("/roster/directors/www", `{"type": "round_robin", "select": {"app": "shop"}}`)
	etcd.Put("/roster/directors/api-pool", `{"type": "least_connections", "select": {"app": "api"}, "backends": ["api/gone"]}`)
	etcd.Put("/roster/routes/api", `{"match": {"path": "/api/*"}, "backend": "api-pool"}`)
	etcd.Put("/roster/routes/www", `{"backend": "www"}`)
	etcd.Put("/roster/routes/old", `{"match": {"host": "old.example"}, "backend": "legacy"}`)
	etcd.Put("/roster/backends/broken", `{"hots": "a", "protocol": `+quoted(hostile)+`, "port": 0, "probe": {"window": 99}}`)
	etcd.Put("/roster/health/static", `{"state": "drain", "reason": `+quoted(hostile)+`, "by": "eva"}`)
	for i := range 3 {
		nodes = append(nodes, harness.StartNode(t, harness.NodeConfig{Etcd: etcd.Endpoints(), ID: fmt.Sprintf("edge-%d", i+1)}))
	}
	return etcd, nodes, origins
}

// The dashboard shows the fleet and what is served, goes with it, and takes nothing of etcd
// for markup.
func TestDashboardShowsTheFleet(t *testing.T) {
	t.Parallel()
	etcd, nodes, origins := dashboardFleet(t)
	harness.StartLoop(t, nodes[0].URL()+"/", 4)
	p := openTab(t, nodes[0].AdminURL()+"/", 1440, 1000)
	p.untilText("#node-name", "edge-1")
	p.untilText("#node-state", "ready")
	p.untilText("#etcd-state", "connected")
	p.untilText("#live", "live")
	p.until("three nodes", "document.querySelectorAll('#fleet tbody tr').length === 3", "document.querySelector('#fleet').innerText")
	p.untilText("#fleet", "this node")
	p.until("nine backends", "document.querySelectorAll('#backend-table tbody tr').length === 9", "document.querySelector('#backend-table').innerText")
	if names := p.names("backend-table"); names[0] != "static" {
		t.Errorf("the drained backend is not before the healthy ones: %q", names)
	}
	p.until("all probes good", `document.querySelector("#count-healthy").textContent === "8"`, "document.querySelector('#filter').innerText")
	p.untilText("#directors", "3 of 3")
	p.untilText("#directors", "5 of 6")
	p.untilText("#directors", "api/gone not defined")
	for _, part := range []string{"backends/broken", "hots", "window", "routes/old", "legacy", "directors/api-pool"} {
		p.untilText("#faults", part)
	}
	p.untilText("#problems", "1 definition is rejected")
	p.until("rates", `!["–", "0"].includes(document.querySelector("#rate").textContent) && document.querySelector("#p99").textContent !== "–"`, "document.querySelector('#tiles').innerText")
	p.until("a line of rates", `(document.querySelector("#rate-spark path:last-child")?.getAttribute("d") ?? "").split("L").length > 4`, "document.querySelector('#rate-spark').outerHTML")

	// As text, everywhere.
	p.untilText(`#backend-table tr[data-key="static"]`, "[::1]:8080")
	for selector, part := range map[string]string{`#backend-table tr[data-key="static"]`: "<script>window.pwned=2</script>", "#faults": "<script>"} {
		p.untilText(selector, part)
	}
	if got := eval[any](p, "window.pwned ?? null"); got != nil {
		t.Errorf("text of a definition ran as a script: %v", got)
	}
	if got := eval[int](p, "document.querySelectorAll('#backend-table img, #faults img, body script').length"); got != 0 {
		t.Errorf("%d elements came of the text of definitions", got)
	}

	// And if something got there all the same, the page's policy would keep it from running.
	p.expect("Content Security Policy", "TrustedHTML", "TrustedScript")
	if got := eval[[]bool](p, `["text", "html"].map((how) => {
		try {
			if (how === "html") document.createElement("div").innerHTML = "<b>x</b>";
			const s = document.createElement("script");
			s.append("window.pwned = 3");
			document.body.append(s);
			s.remove();
			return how === "text" && window.pwned === undefined;
		} catch {
			return window.pwned === undefined;
		}
	})`); !slices.Equal(got, []bool{true, true}) {
		t.Errorf("a script's text and markup of a string are refused: %v", got)
	}

	// A backend that fails comes first, with its history, without being asked for.
	origins[1].Stop()
	p.until("web-2 sick, and first", `document.querySelector("#backend-table tbody tr").dataset.key.match(/^(shop.web-2|api.node-[25])$/) && document.querySelector("#count-sick").textContent === "3"`, "document.querySelector('#backend-table').innerText")
	p.untilText("#events", "shop/web-2 is sick")
	p.until("bad probes in the strip", `document.querySelector('tr[data-key="shop/web-2"] .strip').getAttribute("aria-label").includes("probes bad, the newest is bad")`,
		`document.querySelector('tr[data-key="shop/web-2"] .strip').getAttribute("aria-label")`)
	p.untilText("#directors", "2 of 3")
	p.do(chromedp.Click(`tr[data-key="shop/web-2"] button`))
	harness.Until(t, "its failed requests", func() (bool, any) {
		text := p.text("#subject-detail")
		return strings.Contains(text, " failed") && !strings.Contains(text, "of which 0 failed"), text
	})
	p.do(chromedp.Click("#subject-close"))
	origins[1].Start()
	p.until("web-2 healthy again", `document.querySelector("#count-sick").textContent === "0"`, "document.querySelector('#filter').innerText")
	p.untilText("#events", "shop/web-2 is healthy")

	p.prefer("light")
	p.shoot("light")
	p.prefer("dark")
	p.shoot("dark")

	// A node that dies is unknown when its lease ends; a change shows as it is applied.
	nodes[2].Kill()
	p.untilText("#problems", "Node edge-3 is unknown")
	p.untilText("#fleet", "unknown")
	p.prefer("light")
	p.shoot("node-down")
	rev := etcd.Put("/roster/backends/new", origins[0].Definition())
	p.untilText("#events", "revision "+fmt.Sprintf("%d", rev))
	p.untilText("#backend-table", "new")

	p.do(chromedp.EmulateViewport(390, 844))
	if wide := eval[int](p, "document.documentElement.scrollWidth"); wide > 390 {
		t.Errorf("on a screen of 390 the page is %d wide", wide)
	}
	if got := eval[[]string](p, `[...document.querySelectorAll("main section *, aside *")].filter((e) => e.checkVisibility() && !e.closest(".hidden, thead, .chips input") && e.getBoundingClientRect().right > 390).map((e) => e.outerHTML.slice(0, 80))`); len(got) > 0 {
		t.Errorf("on a screen of 390 there is something beyond it: %q", got)
	}
	if got := eval[[]string](p, `[...document.querySelectorAll(".tile dd")].filter((e) => e.getBoundingClientRect().right > e.closest(".tile").getBoundingClientRect().right).map((e) => e.textContent)`); len(got) > 0 {
		t.Errorf("on a screen of 390 numbers go beyond their tile: %q", got)
	}
	p.shoot("phone")
	p.do(chromedp.EmulateViewport(1440, 1000))

	// Its own node's end is said, and what is shown is said to be old.
	p.expect("ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED_ENCODING", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE")
	nodes[0].Kill()
	p.untilText("#banner", "has not answered as it should since")
	p.untilText("#live", "reconnecting")
	nodes[0].Restart()
	p.until("the banner gone", `document.querySelector("#banner").hidden`, `document.querySelector("#banner").innerText`)
	p.untilText("#live", "live")
	p.untilText("#events", "missed")
}

// Nothing is asked while the page cannot be seen.
func TestDashboardRestsWhileHidden(t *testing.T) {
	t.Parallel()
	harness.Require(t, "chromium")
	node := harness.StartNode(t, harness.NodeConfig{})
	p := openTab(t, node.AdminURL()+"/", 1000, 800)
	p.untilText("#live", "live")
	p.until("a first look", `document.querySelector("#clients").textContent !== "–"`, "document.querySelector('#tiles').innerText")
	// What a browser does when another tab is chosen.
	hide := `(() => { Object.defineProperty(document, "hidden", {configurable: true, get: () => %v}); document.dispatchEvent(new Event("visibilitychange")); return true })()`
	eval[bool](p, fmt.Sprintf(hide, true))
	p.untilText("#live", "paused")
	p.until("no request under way", `!ticking`, "ticking")
	eval[bool](p, `(window.asked = 0, window.real = window.fetch, window.fetch = (...a) => (window.asked++, window.real(...a)), true)`)
	// Whatever still calls for the numbers or for events gets none.
	if n := eval[int](p, `(async () => { soon(); await tick(); await listen(); return window.asked })()`); n != 0 {
		t.Errorf("%d requests while the page was hidden", n)
	}
	eval[bool](p, fmt.Sprintf(hide, false))
	p.untilText("#live", "live")
	p.until("requests again", "window.asked > 0", "window.asked")
}

// Health is set from the dashboard, after a confirmation that names the backend; what the
// node answers is shown.
func TestDashboardSetsHealth(t *testing.T) {
	t.Parallel()
	harness.Require(t, "chromium")
	etcd := harness.StartEtcd(t)
	web := harness.StartOrigin(t, "web-1")
	etcd.Put("/roster/backends/team-a/web-1", web.Definition(probeOften))
	node := harness.StartNode(t, harness.NodeConfig{Etcd: etcd.Endpoints()})
	p := openTab(t, node.AdminURL()+"/", 1200, 900)
	const button = `#backend-table tr[data-key="team-a/web-1"] button`
	p.until("the backend", "!!document.querySelector("+quoted(button)+")", "document.body.innerText")
	p.until("healthy", `document.querySelector("#count-healthy").textContent === "1"`, "document.querySelector('#filter').innerText")

	set := func(word, confirm, reason string) {
		t.Helper()
		if !eval[bool](p, `document.querySelector("#subject").open`) {
			p.do(chromedp.Click(button))
		}
		p.untilText("#subject-title", "team-a/web-1")
		p.do(chromedp.Click(`#health-form input[value="` + word + `"]`))
		if got := p.text("#set-health"); got != confirm {
			t.Errorf("the button says %q, want %q", got, confirm)
		}
		p.fill("#reason", reason)
		p.fill("#by", "eva")
		p.do(chromedp.Click("#set-health"))
	}
	value := func() string { return etcd.Ctl("get", "--print-value-only", "/roster/health/team-a/web-1") }
	if eval[bool](p, `(document.querySelector(`+quoted(button)+`).click(), !document.querySelector("#set-health").disabled)`) {
		t.Error("something can be set before a state is chosen")
	}
	p.until("its history", `document.querySelector("#subject-detail").innerText.includes("Happy")`, `document.querySelector("#subject-detail").innerText`)
	set("drain", "Drain team-a/web-1", "new <b>disk</b>")
	p.untilText("#health-answer", "team-a/web-1 is set to drain, at revision ")
	p.untilText("#subject-state", "draining – by operator: new <b>disk</b>")
	p.untilText("#subject-detail", "nothing any more") // the node's drain, by its presence
	if got, want := strings.TrimSpace(value()), `{"state":"drain","reason":"new <b>disk</b>","by":"eva"}`; !sameJSON(got, want) {
		t.Errorf("etcd has %s, want %s", got, want)
	}
	p.shoot("dialog")
	for _, row := range []struct{ word, confirm, state string }{
		{"sick", "Set team-a/web-1 sick", "sick – by operator"},
		{"healthy", "Set team-a/web-1 healthy", "healthy – by operator"},
		{"auto", "Set team-a/web-1 to auto", "healthy"},
	} {
		set(row.word, row.confirm, "")
		p.untilText("#health-answer", "is set to "+row.word)
		p.untilText("#subject-state", row.state)
		if !strings.Contains(value(), `"`+row.word+`"`) {
			t.Errorf("etcd has %s, want %s", value(), row.word)
		}
	}
	p.untilText("#events", "team-a/web-1 is set to drain")

	// A backend that is drained is not taken for left by a node that does not say so.
	for state, want := range map[string]string{
		`"ready", presence: {}`: "it has not said yet", `"ready", presence: {more_leaving: 1}`: "not known", `"unknown", presence: null`: "not known",
		`"ready", presence: {leaving: [{name: "a", settled: false, active: 0, queued: 0, connections: 0}]}`: "0 requests, 0 queued, 0 connections",
		`"ready", presence: {leaving: [{name: "a", settled: true, active: 1, queued: 2, connections: 3}]}`:  "1 request, 2 queued, 3 connections",
		`"ready", presence: {leaving: [{name: "a", settled: true, active: 0, queued: 0, connections: 0}]}`:  "nothing any more",
	} {
		if got := eval[string](p, `((f) => { const kept = now.fleet; now.fleet = f; const said = draining("a"); now.fleet = kept; return said.flat().join(": ") })({items: [{node: "n", state: `+state+`}]})`); !strings.HasPrefix(got, "On n: "+want) {
			t.Errorf("%s: %q, want %q", state, got, want)
		}
	}

	// What is refused is shown with all its reasons, whatever they have in them.
	eval[bool](p, `(window.real = window.fetch, window.fetch = (u, o) => o?.method === "PUT" ? Promise.resolve(new Response(JSON.stringify({errors: window.refusal.errors}), {status: window.refusal.status})) : window.real(u, o), true)`)
	for status, errors := range map[int][]string{
		403: {"etcd does not let this node change health/team-a/web-1"}, 409: {"conflict <i>now</i>"}, 422: {"state is wrong", "reason is wrong", hostile},
	} {
		eval[bool](p, fmt.Sprintf(`(window.refusal = {status: %d, errors: JSON.parse(%s)}, true)`, status, quoted(toJSON(errors))))
		set("sick", "Set team-a/web-1 sick", "")
		p.untilText("#health-answer", fmt.Sprintf("team-a/web-1 was not changed: the node answers %d", status))
		for _, text := range errors {
			p.untilText("#health-answer", text)
		}
	}
	eval[bool](p, `(window.fetch = window.real, true)`)
	if got := eval[any](p, "window.pwned ?? null"); got != nil {
		t.Errorf("text of an answer ran as a script: %v", got)
	}

	// Without etcd nothing is written, and that is said.
	p.expect("503", "504", "status of 401")
	etcd.Kill()
	p.untilText("#problems", "etcd does not answer this node")
	set("sick", "Set team-a/web-1 sick", "")
	p.untilText("#health-answer", "was not changed: the node answers 50")
	p.do(chromedp.KeyEvent(kb.Escape))
	p.until("the dialog closed, and the focus on the backend's name", `!document.querySelector("#subject").open && document.activeElement.innerText === "team-a/web-1"`, "document.activeElement.outerHTML")
}

func toJSON(v any) string {
	b, _ := json.Marshal(v) // strings have no error
	return string(b)
}

func sameJSON(a, b string) bool {
	var x, y any
	return json.Unmarshal([]byte(a), &x) == nil && json.Unmarshal([]byte(b), &y) == nil && toJSON(x) == toJSON(y)
}

// With 10,000 backends the page has as many rows as fit a page, and finds each of them.
func TestDashboardWithTenThousandBackends(t *testing.T) {
	t.Parallel()
	harness.Require(t, "chromium")
	etcd := harness.StartEtcd(t)
	const backends, checks, batch = 10_000, 20, 100
	var origins []*harness.Origin
	for i := range checks {
		origins = append(origins, harness.StartOrigin(t, fmt.Sprintf("origin-%d", i)))
	}
	origins[7].Stop()
	var ops []clientv3.Op
	for i := range backends {
		team := []string{"checkout", "search", "media", "login"}[i%4]
		name := fmt.Sprintf("/roster/backends/%s/web-%05d", team, i)
		def := origins[i%checks].Definition(fmt.Sprintf(`"labels": {"team": %q, "rack": "r%02d"}`, team, i%40), `"probe": {"url": "/", "interval": "1s", "timeout": "500ms"}`)
		if ops = append(ops, clientv3.OpPut(name, def)); len(ops) == batch {
			etcd.Txn(ops...)
			ops = nil
		}
	}
	for _, team := range []string{"checkout", "search", "media", "login"} {
		etcd.Put("/roster/directors/"+team, `{"type": "random", "backends": [], "select": {"team": "`+team+`"}}`)
	}
	etcd.Put("/roster/directors/all", `{"type": "fallback", "backends": ["checkout", "search", "media", "login"]}`)
	etcd.Put("/roster/directors/checkout", `{"type": "random", "backends": ["checkout/web-00000","checkout/web-00004"]}`)
	node := harness.StartNode(t, harness.NodeConfig{Etcd: etcd.Endpoints(), Plain: true})
	p := openTab(t, node.AdminURL()+"/", 1440, 1000)
	p.until("all of them, and a twentieth sick", `document.querySelector("#count-all").textContent === "10,000" && document.querySelector("#count-sick").textContent === "500"`, "document.querySelector('#filter').innerText")
	p.untilText("#page-at", "1 to 25 of 10,000")
	p.untilText("#backend-table tbody tr", "sick")
	rows := func() int { return eval[int](p, "document.querySelectorAll('#backend-table tbody tr').length") }
	if n := rows(); n != 25 {
		t.Errorf("%d rows, want 25", n)
	}
	if n := eval[int](p, "document.querySelectorAll('*').length"); n > 3000 {
		t.Errorf("the page has %d elements", n)
	}
	p.until("rates", `document.querySelector("#rate").textContent === "0"`, "document.querySelector('#tiles').innerText")
	p.shoot("10000")

	find := func(q string) {
		t.Helper()
		p.fill("#q", q)
	}
	find("WEB-04321")
	p.until("the one by its name", `document.querySelectorAll('#backend-table tbody tr').length === 1`, "document.querySelector('#filter').innerText")
	if names := p.names("backend-table"); names[0] != "search/web-04321" {
		t.Errorf("found %q", names)
	}
	find("rack=r07 team=login")
	p.untilText("#count-all", "250")
	if row := p.text("#backend-table tbody tr"); !strings.Contains(row, "team=login") || !strings.Contains(row, "rack=r07") {
		t.Errorf("found %s", row)
	}
	find("rack=r07 nonsense")
	p.untilText("#no-backends", "No backend is like that")
	find("")
	p.do(chromedp.Click(`input[name=state][value=sick]`, chromedp.NodeReady))
	p.untilText("#page-at", "1 to 25 of 500")
	for range 19 {
		before := p.text("#page-at")
		p.do(chromedp.Click("#next"))
		p.until("the next page", "document.querySelector('#page-at').innerText !== "+quoted(before), "document.querySelector('#page-at').innerText")
	}
	p.untilText("#page-at", "476 to 500 of 500")
	if !eval[bool](p, "document.querySelector('#next').disabled") {
		t.Error("there is a page after the last")
	}
	origins[7].Start() // while it is looked at
	p.untilText("#no-backends", "No backend is like that")
	p.do(chromedp.Click(`input[name=state][value=""]`, chromedp.NodeReady))
	p.untilText("#page-at", "1 to 25 of 10,000")
	p.do(chromedp.Click(`#directors tr[data-key="checkout"] td button`))
	p.untilText("#count-all", "2")
	p.untilText("#director-filter", "of checkout")
	p.do(chromedp.Click("#director-filter"))
	p.untilText("#count-all", "10,000")
}

// A node that asks for a token gets one from the operator. It is kept in the tab alone.
func TestDashboardAsksForAToken(t *testing.T) {
	t.Parallel()
	harness.Require(t, "chromium")
	const token = "0123456789abcdef-of-the-dashboard"
	dir := t.TempDir()
	cert, key := certstest.NewCA(t).Issue(t, "node.example").Write(t, dir, "admin")
	if err := os.WriteFile(filepath.Join(dir, "tokens"), []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	node := harness.NewNode(t, harness.NodeConfig{Args: []string{"--admin-token-file", filepath.Join(dir, "tokens"), "--admin-tls-cert", cert, "--admin-tls-key", key}})
	node.Start()
	url := "https://" + node.AdminAddress()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	harness.Until(t, "readiness with TLS", func() (bool, any) {
		a, err := adminTry(client, "GET", url+"/readyz", "")
		return err == nil && a.status == 200, fmt.Sprint(a, err)
	})
	p := openTab(t, url+"/", 1000, 800)
	p.expect("status of 401")
	p.until("the question", `document.querySelector("#token-dialog").open`, "document.body.innerText")
	if got := p.text("#node-name"); got != "" {
		t.Errorf("without a token the page knows %q", got)
	}
	enter := func(s string) {
		t.Helper()
		p.fill("#token", s)
		p.do(chromedp.Click("#token-form button"))
	}
	enter("not-the-right-token-0123456789")
	p.untilText("#token-why", "It did not take the one that was entered")
	enter(token)
	p.untilText("#node-state", "ready")
	p.untilText("#live", "live")
	p.until("no banner", `document.querySelector("#banner").hidden`, `document.querySelector("#banner").innerText`)
	if got := eval[[]string](p, `[sessionStorage.getItem("roster.token"), JSON.stringify(localStorage), document.cookie, location.href, document.documentElement.outerHTML, document.querySelector("#token").value]`); got[0] != token || strings.Contains(strings.Join(got[1:], " "), token) {
		t.Errorf("the token is not only in sessionStorage: %q", got)
	}
	// One that is taken out of the file is asked for again.
	if err := os.WriteFile(filepath.Join(dir, "tokens"), []byte("another-token-0123456789\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.until("the question again", `document.querySelector("#token-dialog").open`, "document.body.innerText")
	p.do(chromedp.KeyEvent(kb.Escape))
	p.untilText("#banner", "This node asks for a token")
}

// Who does not see the page, or has no mouse, can use it: landmarks, names, order, contrast.
func TestDashboardIsAccessible(t *testing.T) {
	t.Parallel()
	_, nodes, _ := dashboardFleet(t)
	p := openTab(t, nodes[0].AdminURL()+"/", 1440, 1000)
	p.until("nine backends", "document.querySelectorAll('#backend-table tbody tr').length === 9", "document.body.innerText")
	p.until("the fleet", "document.querySelectorAll('#fleet tbody tr').length === 3", "document.querySelector('#fleet').innerText")
	p.untilText("#directors", "api-pool")
	p.untilText("#faults", "Rejected")

	for _, width := range []int64{1440, 390} {
		p.do(chromedp.EmulateViewport(width, 900))
		for what, wrong := range map[string]string{
			"landmarks":               `["header", "main", "aside"].filter((s) => document.querySelectorAll("body > " + s).length !== 1)`,
			"more or less than an h1": `[document.querySelectorAll("h1").length].filter((n) => n !== 1)`,
			"a language":              `[document.documentElement.lang].filter((l) => l !== "en")`,
			"sections without a name": `[...document.querySelectorAll("section")].filter((s) => !document.getElementById(s.getAttribute("aria-labelledby"))).map((s) => s.outerHTML.slice(0, 80))`,
			"controls without a name": `[...document.querySelectorAll("button, input, select, summary, [role=img], [tabindex='0']")].filter((e) => e.checkVisibility()).filter((e) => ` +
				`!(e.getAttribute("aria-label") || document.getElementById(e.getAttribute("aria-labelledby"))?.textContent || e.labels?.[0]?.textContent || e.textContent).trim()).map((e) => e.outerHTML.slice(0, 80))`,
			"headings that name no column":  `[...document.querySelectorAll("table")].flatMap((t) => [...t.tHead.rows[0].cells].filter((c) => c.scope !== "col" || !c.textContent.trim()).map((c) => c.outerHTML))`,
			"rows without a heading":        `[...document.querySelectorAll("tbody tr")].filter((r) => r.cells[0].tagName !== "TH" || r.cells[0].scope !== "row").map((r) => r.outerHTML.slice(0, 80))`,
			"tables without their roles":    `[...document.querySelectorAll("table, thead, tbody, tr, th, td")].filter((e) => !e.getAttribute("role")).map((e) => e.outerHTML.slice(0, 80))`,
			"states that are a colour only": `[...document.querySelectorAll(".state")].filter((e) => !e.textContent.trim() || ["none", "normal"].includes(getComputedStyle(e, "::before").content)).filter((e) => e.checkVisibility()).map((e) => e.outerHTML)`,
			"ids used twice":                `[...document.querySelectorAll("[id]")].map((e) => e.id).filter((id, i, all) => all.indexOf(id) !== i)`,
			"events that are not told":      `[...document.querySelectorAll("#events")].filter((e) => e.getAttribute("role") !== "log" || e.getAttribute("aria-live") !== "polite").map((e) => e.outerHTML)`,
			"an order of its own":           `[...document.querySelectorAll("[tabindex]")].filter((e) => e.tabIndex > 0).map((e) => e.outerHTML)`,
		} {
			if got := eval[[]any](p, wrong); len(got) > 0 {
				t.Errorf("%d wide: %s: %v", width, what, got)
			}
		}
		for _, scheme := range []string{"light", "dark"} {
			p.prefer(scheme)
			if got := eval[[]string](p, contrast); len(got) > 0 {
				t.Errorf("%d wide, %s: too little contrast: %s", width, scheme, strings.Join(got, "\n"))
			}
		}
	}
	p.do(chromedp.EmulateViewport(1440, 900))

	// The switch is remembered, and wins over the system.
	p.prefer("light")
	ground := `getComputedStyle(document.body).backgroundColor`
	light := eval[string](p, ground)
	eval[bool](p, `((s) => { s.value = "dark"; s.dispatchEvent(new Event("change")); return true })(document.querySelector("#theme"))`)
	dark := eval[string](p, ground)
	p.do(chromedp.Reload())
	if again := eval[string](p, ground); again != dark || dark == light {
		t.Errorf("light is %s, dark %s, and dark after the page was loaded again %s", light, dark, again)
	}
	p.until("nine backends again", "document.querySelectorAll('#backend-table tbody tr').length === 9", "document.body.innerText")

	// By keyboard alone: to the backends, find one, open it, choose, and back.
	p.do(chromedp.KeyEvent(kb.Tab))
	if got := eval[string](p, "document.activeElement.className"); got != "skip" {
		t.Errorf("the first stop is %q, want the link to the backends", got)
	}
	var order []string
	for range 12 {
		p.do(chromedp.KeyEvent(kb.Tab))
		order = append(order, eval[string](p, "document.activeElement.id || document.activeElement.getAttribute('aria-labelledby') || document.activeElement.value || document.activeElement.innerText || document.activeElement.tagName"))
		if seen := eval[string](p, "((s) => s.outlineStyle)(getComputedStyle(document.activeElement.matches('.chips input') ? document.activeElement.nextElementSibling : document.activeElement))"); seen == "none" {
			t.Errorf("the focus on %s cannot be seen", order[len(order)-1])
		}
	}
	if got := strings.Join(order, ", "); !strings.HasPrefix(got, "theme, fleet-title, q, ") || !strings.Contains(got, "backends-title, static") {
		t.Errorf("the order of stops is %s", got)
	}
	p.do(chromedp.KeyEvent("/"))
	if got := eval[string](p, "document.activeElement.id"); got != "q" {
		t.Errorf("slash leads to %q, want the search", got)
	}
	p.do(chromedp.KeyEvent("web-3"))
	p.until("one row", `document.querySelectorAll('#backend-table tbody tr').length === 1`, "document.querySelector('#backend-table').innerText")
	for range 8 {
		if eval[string](p, "document.activeElement.innerText") == "shop/web-3" {
			break
		}
		p.do(chromedp.KeyEvent(kb.Tab))
	}
	p.do(chromedp.KeyEvent(kb.Enter))
	p.until("the dialog", `document.querySelector("#subject").open && document.querySelector("#subject").contains(document.activeElement)`, "document.activeElement.outerHTML")
	p.until("what is known of it", `document.querySelector("#subject-detail").innerText.includes("Address")`, `document.querySelector("#subject").innerText`)
	if got := eval[[]string](p, contrast); len(got) > 0 {
		t.Errorf("too little contrast in the dialog: %s", strings.Join(got, "\n"))
	}
	p.do(chromedp.KeyEvent(kb.Escape))
	p.until("the row again", `document.activeElement.innerText === "shop/web-3"`, "document.activeElement.outerHTML")
}

// contrast lists elements whose text has less contrast to its ground than WCAG 2.2 (1.4.3)
// wants: 4.5, or 3 for what is large. Disabled controls are excepted there.
const contrast = `(() => {
	const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
	const rgba = (color) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); return canvas.getImageData(0, 0, 1, 1).data; };
	const light = ([r, g, b]) => { const f = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b); };
	const found = new Set();
	for (const e of document.querySelectorAll("body *")) {
		if (![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()) || e.disabled || !e.checkVisibility() || e.closest(".hidden, noscript") || (document.querySelector("dialog[open]") && !e.closest("dialog"))) continue;
		const style = getComputedStyle(e);
		let ground = e;
		while (ground && rgba(getComputedStyle(ground).backgroundColor)[3] < 255) ground = ground.parentElement;
		const a = light(rgba(style.color)), b = light(rgba(getComputedStyle(ground ?? document.body).backgroundColor));
		const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), size = parseFloat(style.fontSize);
		if (ratio < (size >= 24 || size >= 18.66 && style.fontWeight >= 700 ? 3 : 4.5)) found.add(ratio.toFixed(2) + " " + e.tagName + "." + e.className + " " + e.textContent.trim().slice(0, 30));
	}
	return [...found];
})()`
