// Package dashboard is the page that an operator sees at a node's admin listener.
//
// It is three files, in the program itself: no framework, nothing built, nothing fetched
// from elsewhere. What it shows it asks of the admin API, as curl could. All text of
// definitions is inserted as text, and the policy that comes with the page has the browser
// refuse everything else: scripts and styles of other origins and in the page, markup made
// from strings, and frames around it.
package dashboard

import (
	"embed"
	"net/http"
)

//go:embed index.html app.js style.css icon.svg
var files embed.FS

// policy is the Content-Security-Policy (W3C CSP Level 3) of the page.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// A File is one of the page's, as it is served.
type File struct {
	Path  string // of the URL
	Name  string
	Media string // type, without parameters
	bytes []byte
}

// Files are all there are. They never change while the program runs.
func Files() []File {
	all := []File{
		{Path: "/", Name: "index.html", Media: "text/html"},
		{Path: "/dashboard/app.js", Name: "app.js", Media: "text/javascript"},
		{Path: "/dashboard/style.css", Name: "style.css", Media: "text/css"},
		{Path: "/dashboard/icon.svg", Name: "icon.svg", Media: "image/svg+xml"},
	}
	for i := range all {
		b, err := files.ReadFile(all[i].Name)
		if err != nil {
			panic("dashboard: " + err.Error()) // it is embedded
		}
		all[i].bytes = b
	}
	return all
}

func (f File) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	h := w.Header()
	h.Set("Content-Type", f.Media+"; charset=utf-8")
	h.Set("Content-Security-Policy", policy)
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Frame-Options", "DENY") // for browsers that do not know frame-ancestors
	_, _ = w.Write(f.bytes)          // an error means that the client has gone
}
