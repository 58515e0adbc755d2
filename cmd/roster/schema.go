package main

import (
	"github.com/spf13/cobra"

	"roster/store"
)

func schemaCommand(s streams) *cobra.Command {
	return &cobra.Command{
		Use:   "schema [KIND]",
		Short: "Print the JSON Schema of a kind's definitions, for editors",
		Long: `Print the JSON Schema (2020-12) of a kind's definitions, or, without a kind, of the
files that roster apply reads: what fields there are, what for, their types, ranges and
defaults. Editors that know JSON Schema complete and check files with it.

What roster takes the schema takes. Some mistakes only roster validate finds.`,
		Example: `  roster schema backend
  roster schema > roster.schema.json   # and in a file: # yaml-language-server: $schema=roster.schema.json
  roster schema route | jq -r '.properties | keys[]'`,
		Args:              args(0, 1, "perhaps a kind"),
		ValidArgsFunction: completeKind,
		RunE: func(_ *cobra.Command, args []string) error {
			var kind store.Kind
			if len(args) == 1 {
				k, err := key(args[0], "")
				if err != nil {
					return err
				}
				kind = k.Kind
			}
			_, err := s.out.Write(store.JSONSchema(kind))
			return err
		},
	}
}
