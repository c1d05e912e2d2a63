package fetch

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// The vendors of a configuration's fetch.
const (
	AMD   = "amd"   // Key Distribution Service: certificates of chips, their issuers, revocation lists
	Intel = "intel" // Provisioning Certification Service: revocation lists, TCB info, QE identity
	Azure = "azure" // the host below an Azure VM: the certificate of this machine's own chip
)

var vendors = []string{AMD, Intel, Azure}

// Folder is the cache, in the state folder of a daemon.
const Folder = "endorsements"

// Config is what a configuration says of fetching; the zero Config asks nobody.
type Config struct {
	From    []string          // vendors
	Mirrors map[string]string // by vendor, https: asked in the vendor's place. What it gives is checked as if the vendor had
	Dir     string            // cache, of one process

	// What a daemon leaves zero, and a test of one does not.
	Transport http.RoundTripper                    // http.DefaultTransport, which goes through the environment's proxy
	Every     time.Duration                        // refresh.DefaultEvery
	Now       func() time.Time                     // time.Now
	After     func(time.Duration) <-chan time.Time // time.After
}

// Parse reads what stands under fetch and mirrors, in a configuration whose state folder is given.
func Parse(from []string, mirrors map[string]string, state string) (Config, error) {
	for i, v := range from {
		if !slices.Contains(vendors, v) {
			return Config{}, fmt.Errorf("field \"fetch\" names %q, want some of %q", v, vendors)
		}
		if slices.Contains(from[:i], v) {
			return Config{}, fmt.Errorf("field \"fetch\" names %q twice", v)
		}
	}
	for _, v := range slices.Sorted(maps.Keys(mirrors)) {
		if !slices.Contains(from, v) || v == Azure {
			return Config{}, fmt.Errorf("field \"mirrors\" names %q, want %q or %q, and \"fetch\" to name it too", v, AMD, Intel)
		}
		u, err := url.Parse(mirrors[v])
		if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			return Config{}, fmt.Errorf("field \"mirrors.%s\" is %q, want https://host, with a path at most", v, mirrors[v])
		}
	}
	c := Config{From: from, Dir: filepath.Join(state, Folder), Mirrors: map[string]string{}}
	for v, address := range mirrors {
		c.Mirrors[v] = strings.TrimRight(address, "/")
	}
	return c, nil
}

func (c *Config) fill() {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.After == nil {
		c.After = time.After
	}
}
