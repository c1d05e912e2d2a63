// Command whatleaves writes docs/what-leaves.md: every field of every message that a node sends, with
// what it could tell about patients. The fields come from the protobuf descriptors and from the Go
// structs themselves, their classes from classes.txt beside this file:
//
//	go run ./tools/whatleaves docs/what-leaves.md
//
// A field without a class, a class without its field, and bytes that do not say what they hold are errors, so
// that a message cannot grow unnoticed.
package main

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
)

//go:generate go run . ../../docs/what-leaves.md

//go:embed classes.txt
var classes string

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: whatleaves FILE")
		os.Exit(2)
	}
	if err := write(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "whatleaves:", err)
		os.Exit(1)
	}
}

// write finds the sources two folders up from here: go run and go test both start in this one or in the root.
func write(file string) error {
	top, err := root()
	if err != nil {
		return err
	}
	text, err := document(top, classes)
	if err != nil {
		return err
	}
	return os.WriteFile(file, []byte(text), 0o644)
}

func root() (string, error) {
	for _, dir := range []string{".", "../.."} {
		if _, err := os.Stat(dir + "/tools/whatleaves/classes.txt"); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("started neither at the top of the repository nor in tools/whatleaves")
}

// document makes the text, or says everything that is wrong with the classes.
func document(top, classes string) (string, error) {
	sections, err := parse(classes)
	if err != nil {
		return "", err
	}
	if err := fill(top, sections); err != nil {
		return "", err
	}
	return render(sections), nil
}
