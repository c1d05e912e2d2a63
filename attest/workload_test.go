package attest

import (
	"encoding/json"
	"reflect"
	"slices"
	"testing"

	"go.yaml.in/yaml/v3"
)

// goodWorkload is a token and the narrowest policy that takes it.
func goodWorkload() (WorkloadClaims, WorkloadPolicy) {
	c := WorkloadClaims{
		Issuer: "i", Audience: []string{"b", "a"}, HWModel: HWModelTDX, SecureBoot: true, SWName: "s", SWVersion: []string{"250301"},
		DebugStatus: dbgstatProduction, SupportAttributes: []string{"USABLE", "STABLE"}, ServiceAccounts: []string{"x", "y"},
		Container: WorkloadContainer{
			RestartPolicy: "Never", Args: []string{"run", "fast"}, Env: map[string]string{"HOSTNAME": "h7", "PATH": "/"}, CmdOverride: []string{"fast"},
			EnvOverride: map[string]string{"LEVEL": "1"}, Signatures: []WorkloadSignature{{KeyID: "k1"}, {KeyID: "k2"}},
		},
		GCE: WorkloadInstance{ProjectID: "p", Zone: "z", InstanceID: "7"},
	}
	return c, WorkloadPolicy{
		Issuers: SetOf("i"), Audiences: SetOf("a"), HWModels: SetOf(HWModelTDX), SWNames: SetOf("s"), MinSWVersion: 250301, SecureBoot: Required,
		Support: SetOf("STABLE"), MonitoringOff: Required, Args: List{Of: []string{"run", "fast"}}, Env: SetOf("HOSTNAME=*", "PATH=/"),
		CmdOverride: List{Of: []string{"fast"}}, EnvOverride: SetOf("LEVEL=1"), Restart: SetOf("Never"), SignedBy: SetOf("k2"),
		Accounts: SetOf("x", "y"), Projects: SetOf("p"), Zones: SetOf("z"), Instances: SetOf("7"),
	}
}

func judgeWorkload(c WorkloadClaims, p WorkloadPolicy) appraisal {
	var a appraisal
	p.appraise(&c, &a)
	return a
}

func TestWorkload(t *testing.T) {
	c, p := goodWorkload()
	if a := judgeWorkload(c, p); len(a.reasons)+len(a.warnings)+len(a.notChecked) != 0 {
		t.Errorf("%v, %v, not checked %q", a.reasons, a.warnings, a.notChecked)
	}
	if a := judgeWorkload(c, WorkloadPolicy{}); len(a.reasons) < 17 {
		t.Errorf("the zero policy has only %v", a.reasons)
	}
	c.SWVersion = []string{"250301", "250300"}
	if a := judgeWorkload(c, p); !slices.Equal(codesOf(a.reasons), []string{CodeCSSWVersion}) {
		t.Errorf("one of two versions is old: %v", a.reasons)
	}
}

// TestWorkloadPolicyCounts: every field of the policy refuses something, counts in the digest, and says so where it
// takes anything.
func TestWorkloadPolicyCounts(t *testing.T) {
	c, base := goodWorkload()
	digest := Policy{Workload: &base}.Digest()
	for i := range reflect.TypeFor[WorkloadPolicy]().NumField() {
		name := reflect.TypeFor[WorkloadPolicy]().Field(i).Name
		p := base
		loose := base
		f, free := reflect.ValueOf(&p).Elem().Field(i), reflect.ValueOf(&loose).Elem().Field(i)
		bad := c
		switch f.Interface().(type) {
		case Set:
			f.Set(reflect.ValueOf(SetOf("another")))
			free.Set(reflect.ValueOf(AnySet()))
		case List:
			f.Set(reflect.ValueOf(List{Of: []string{"another"}}))
			free.Set(reflect.ValueOf(List{Any: true}))
		case Demand:
			bad.SecureBoot, bad.MemoryMonitoring = name != "SecureBoot", name == "MonitoringOff"
			free.Set(reflect.ValueOf(Optional))
		case uint64:
			f.SetUint(250302)
		}
		if a := judgeWorkload(bad, p); len(a.reasons) == 0 || a.reasons[0].Code == CodeConfig {
			t.Errorf("%s refuses nothing: %v", name, a.reasons)
		}
		if f.Kind() == reflect.String { // a demand that was not made is no policy
			f.SetZero()
			if a := judgeWorkload(c, p); !slices.Equal(codesOf(a.reasons), []string{CodeConfig}) {
				t.Errorf("%s left out: %v", name, a.reasons)
			}
		}
		if (Policy{Workload: &p}).Digest() == digest {
			t.Errorf("%s is not in the digest", name)
		}
		if free.Kind() == reflect.Uint64 {
			continue
		}
		if a := judgeWorkload(bad, loose); len(a.reasons) != 0 || len(a.notChecked) != 1 {
			t.Errorf("%s that takes any: %v, not checked %q", name, a.reasons, a.notChecked)
		}
		if (Policy{Workload: &loose}).Digest() == digest {
			t.Errorf("%s that takes any is not in the digest", name)
		}
	}
}

// TestNoTEE: a policy that takes any hardware still takes no virtual machine without a TEE, and no debug image.
func TestNoTEE(t *testing.T) {
	c, p := goodWorkload()
	p.HWModels = AnySet()
	c.HWModel, c.DebugStatus = "GCP_SHIELDED_VM", ""
	if a := judgeWorkload(c, p); !slices.Equal(codesOf(a.reasons), []string{CodeTEEType, CodeCSDebug}) {
		t.Errorf("%v", a.reasons)
	}
}

func TestList(t *testing.T) {
	for text, want := range map[string]string{"any": `"any"`, "[]": "[]", "[b, a, b]": `["b","a","b"]`} {
		var l List
		if err := yaml.Unmarshal([]byte(text), &l); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if b, err := json.Marshal(l); err != nil || string(b) != want {
			t.Errorf("%s is written %s, %v", text, b, err)
		}
	}
	for _, text := range []string{"none", "{a: b}", "[[a]]", "7"} {
		var l List
		if err := yaml.Unmarshal([]byte(text), &l); err == nil {
			t.Errorf("%s was read as %+v", text, l)
		}
	}
}
