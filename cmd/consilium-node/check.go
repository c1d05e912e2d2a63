package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/consilium-fl/consilium/node"
	"github.com/consilium-fl/consilium/node/wire"
)

// check says what a person should mend before anything runs; exit code 3 when there is something.
func (c *command) check(ctx context.Context) error {
	cfg, err := c.read()
	if err != nil {
		return err
	}
	d, err := wire.Open(ctx, cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return badInput{err}
	}
	var file []byte
	if c.study != "" {
		if file, err = os.ReadFile(c.study); err != nil {
			return badInput{err}
		}
	}
	fs, err := node.Check(cfg, d, file)
	if err != nil {
		return badInput{err}
	}
	problems := 0
	for _, f := range fs {
		if !f.Hint {
			problems++
		}
	}
	if err := c.printFindings(fs); err != nil {
		return err
	}
	if problems > 0 {
		return badInput{fmt.Errorf("%d to mend", problems)}
	}
	if !c.json {
		_, err = fmt.Fprintln(c.stdout, "nothing to mend")
	}
	return err
}

func (c *command) printFindings(fs []node.Finding) error {
	var errs []error
	enc := json.NewEncoder(c.stdout)
	for _, f := range fs {
		text, kind := f.Text, "problem"
		if c.showValues {
			text = f.Show
		}
		if f.Hint {
			kind = "hint"
		}
		if c.json {
			errs = append(errs, enc.Encode(map[string]string{"object": f.Object, "kind": kind, "text": text}))
			continue
		}
		_, err := fmt.Fprintf(c.stdout, "%-8s %s: %s\n", kind, f.Object, text)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
