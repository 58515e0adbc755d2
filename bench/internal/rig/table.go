package rig

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// Markdown writes a table that can be read as it is.
func Markdown(w io.Writer, rows [][]string) {
	t := tabwriter.NewWriter(w, 0, 0, 1, ' ', 0)
	for i, row := range rows {
		fmt.Fprintf(t, "| %s\t|\n", strings.Join(row, "\t| "))
		if i == 0 {
			fmt.Fprintf(t, "| %s\t|\n", strings.Join(slices.Repeat([]string{"---"}, len(row)), "\t| "))
		}
	}
	t.Flush()
}
