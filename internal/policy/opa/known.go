package opa

import (
	"math"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/consilium-fl/consilium/internal/policy"
)

// known are requests that the coordinator's embedded policy has allowed. Its answer is a function of the
// request, of which the time enters in one place: the session has not ended. So the same request is allowed
// again while that holds, without an evaluation. Beside extra Rego, which may ask for the hour, and at a
// node, nothing is known.
type known struct {
	mu      sync.Mutex
	allowed map[asked]policy.Decision
}

// maxKnown bounds it: some methods of each node of many studies.
const maxKnown = 1 << 12

// asked is a policy.Request without its time and with lists as one text each.
type asked struct {
	method            string
	peer              policy.Peer
	session           policy.Session
	study             policy.Study
	target            string // its texts
	exists, hospitals bool
}

func askedOf(r policy.Request) asked {
	var b strings.Builder
	text := func(s string) {
		b.WriteString(strconv.Itoa(len(s)))
		b.WriteByte(':')
		b.WriteString(s)
	}
	for _, s := range []string{r.Target.Study, r.Target.State, r.Target.Lead, r.Target.From} {
		text(s)
	}
	for _, list := range [][]string{r.Target.Members, r.Target.Release} {
		text(strconv.Itoa(len(list)))
		for _, s := range list {
			text(s)
		}
	}
	return asked{r.Method, r.Peer, r.Session, r.Study, b.String(), r.Target.Exists, r.Target.Hospitals}
}

// running says that a session has not ended, in Rego's words: both times are positive numbers of nanoseconds.
func running(r policy.Request) bool {
	now, until := r.Now.Unix(), r.Session.Until.Unix()
	return now > 0 && until < math.MaxInt64/int64(time.Second) && r.Now.Before(r.Session.Until)
}

func (k *known) find(r policy.Request) (policy.Decision, bool) {
	if k == nil || !running(r) {
		return policy.Decision{}, false
	}
	id := askedOf(r)
	k.mu.Lock()
	defer k.mu.Unlock()
	d, ok := k.allowed[id]
	return d, ok
}

func (k *known) add(r policy.Request, d policy.Decision) {
	if k == nil || !d.Allow || !running(r) {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.allowed == nil || len(k.allowed) == maxKnown {
		k.allowed = map[asked]policy.Decision{}
	}
	k.allowed[askedOf(r)] = d
}
