package main

import (
	"context"
	"errors"
)

func (a *app) runRepeat(ctx context.Context, f simulateFlags) error { return errors.New("x") }
