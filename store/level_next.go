//go:build roster_next

// This release's successor as the tests of mixed versions have it: one definition level
// higher, with a field more of each kind that fields are for, and a value more.
package store

const upcoming = 1

func init() {
	backendFields.fields = append(backendFields.fields, nextField[Backend]())
	probeFields.fields = append(probeFields.fields, nextField[Probe]())
	directorFields.fields = append(directorFields.fields, nextField[Director]())
	routeFields.fields = append(routeFields.fields, nextField[Route]())
	for i, f := range directorFields.fields {
		if f.name == "type" {
			directorFields.fields[i] = nextType(f).valueSince(2, "next")
		}
	}
}

// nextField is a string that changes nothing.
func nextField[T any]() field[T] {
	f := text("next", func(*T) *string { return new(string) }, "", nil)
	f.init = nil
	return f.since(2)
}

// nextType takes another type of director, which chooses at random.
func nextType(f field[Director]) field[Director] {
	read := f.read
	f.read = func(d *decoder, v *Director) {
		if d.peek(); d.word(`"next"`) {
			v.Type = Random
			return
		}
		read(d, v)
	}
	return f
}
