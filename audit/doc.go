// Package audit is the transparency log as its readers see it: what a leaf says, what the log
// promised, whether two checkpoints tell one history, and what a receipt claims. It never appends
// (audit/appender does, in the coordinator), so a regulator can link it and nothing else.
//
// A study has one log. Its leaves hold digests and names, never data. The log answers each append
// with a signed [Promise]: this leaf, at this index, published by then. It publishes checkpoints
// (C2SP tlog-checkpoint, a signed note) and tiles (C2SP tlog-tiles). Hospitals check each
// checkpoint against the one before and co-sign it (C2SP tlog-cosignature); a checkpoint counts
// when [Quorum] members have, so that no two histories can both count.
//
//	a, err := audit.NewAuditor(audit.AuditorConfig{Origin: origin, Log: logKey, Witnesses: w,
//		Witness: witnessKey, Name: "cleveland", Memory: file})
//	…
//	err = a.Expect(promised)            // each promise the coordinator hands out
//	line, err := a.Advance(ctx, reader) // each new checkpoint: send the line back
//	size, err := a.Counted(ctx, checkpoint, reader)
//	…
//	if err := a.Due(time.Now()); errors.Is(err, audit.ErrOverdue) {
//		// wait: nothing may be uploaded yet
//	} else if err != nil {
//		// stop for good: the log has contradicted itself
//	}
//
// A folder that somebody else kept is checked offline:
//
//	c, err := audit.ParseCheckpoint(b, origin, logKey, w)
//	if !w.Counts(c) { refuse }
//	leaves, err := audit.VerifyLog(ctx, audit.DirReader("OUT/log"), c)
package audit
