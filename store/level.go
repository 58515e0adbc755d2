package store

// Level is the definition level of this release: it grows when definitions
// get fields or values that an older release refuses. Nodes publish it, so
// that nothing is written which one of them cannot read.
const Level = 1

// LevelOf is the lowest level that takes a definition.
func LevelOf(Definition) int { return 1 }
