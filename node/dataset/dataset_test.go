package dataset

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/consilium-fl/consilium/internal/simulation/wdbc"
	"github.com/consilium-fl/consilium/internal/study"
)

var contractOf = study.Data{
	Registry: "r", Missing: "drop-row", Target: study.Target{Column: "num", Op: ">", Value: 0},
	Features: []study.Feature{
		{Column: "age", Unit: "a", Typical: [2]float64{40, 60}, Plausible: [2]float64{0, 120}},
		{Column: "cp", Levels: []string{"1", "2", "3"}},
	},
}

func mustLoad(t *testing.T, csv string, d study.Data, e Exclusion) (*Dataset, Report) {
	t.Helper()
	ds, report, err := Load(strings.NewReader(csv), "h.csv", d, e)
	if err != nil {
		t.Fatal(err)
	}
	return ds, report
}

func TestVectors(t *testing.T) {
	ds, report := mustLoad(t, "\ufeffnum,ignored, age ,cp\r\n0,x,50,1\r\n4,,60,2.0\n1,NaN,\"40\",\" 3\"\n1,?,1e3,1\n0,,-1e300,2\n", contractOf, Exclusion{})
	want := [][]float64{{0, -1, -1, 1}, {1, 1, -1, 1}, {-1, -1, 1, 1}, {3, -1, -1, 1}, {-3, 1, -1, 1}}
	labels := []float64{0, 1, 1, 1, 0}
	for i := range want {
		rows, l := ds.Patient(i)
		if len(rows) != 1 || !slices.Equal(rows[0], want[i]) || l[0] != labels[i] {
			t.Errorf("patient %d: %v %v, want %v %v", i, rows, l, want[i], labels[i])
		}
	}
	if diff := cmp.Diff(Report{Lines: 5, Rows: 5, Patients: 5, Cut: 2}, report); diff != "" || ds.Dim() != 4 {
		t.Error(diff, ds.Dim())
	}
}

// A bad row is lost by itself: the rows around it are those of the file without it.
func TestRowsDecideNothing(t *testing.T) {
	const before, after = "age,cp,num,note\n50,1,0,a\n", "60,2,1,b\n"
	want, _ := mustLoad(t, before+after, contractOf, Exclusion{})
	for name, tt := range map[string]struct {
		row    string
		report Report
	}{
		"text":           {"old,1,0,a\n", Report{Unreadable: 1}},
		"NaN":            {"NaN,1,0,a\n", Report{Unreadable: 1}},
		"infinity":       {"-Inf,1,0,a\n", Report{Unreadable: 1}},
		"overflow":       {"1e999,1,0,a\n", Report{Unreadable: 1}},
		"hexadecimal":    {"0x10,1,0,a\n", Report{Unreadable: 1}},
		"underscore":     {"1_0,1,0,a\n", Report{Unreadable: 1}},
		"decimal comma":  {"\"50,5\",1,0,a\n", Report{Unreadable: 1}},
		"empty":          {",1,0,a\n", Report{Missing: 1}},
		"spaces":         {"  ,1,0,a\n", Report{Missing: 1}},
		"no target":      {"50,1,,a\n", Report{Missing: 1}},
		"target is text": {"50,1,yes,a\n", Report{Unreadable: 1}},
		"unlisted level": {"50,4,0,a\n", Report{Unreadable: 1}},
		"empty and text": {",x,0,a\n", Report{Unreadable: 1}},
		"few fields":     {"50,1,0\n", Report{Damaged: 1}},
		"many fields":    {"50,1,0,a,b\n", Report{Damaged: 1}},
		"blank line":     {"\n", Report{Damaged: 1}},
		"open quote":     {"50,1,0,\"a\n", Report{Damaged: 1}},
		"quote inside":   {"50,1,0,a\"b\"\n", Report{Damaged: 1}},
		"after a quote":  {"50,1,0,\"a\"b\n", Report{Damaged: 1}},
		"not UTF-8":      {"50,1,0,\xff\n", Report{Damaged: 1}},
		"long":           {"50,1,0," + strings.Repeat("a", MaxLine) + "\n", Report{Damaged: 1}},
		"very long":      {"50,1,0," + strings.Repeat("\xff", 3*MaxLine) + "\n", Report{Damaged: 1}},
	} {
		got, report := mustLoad(t, before+tt.row+after, contractOf, Exclusion{})
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(Dataset{})); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		tt.report.Lines, tt.report.Rows, tt.report.Patients = 3, 2, 2
		if diff := cmp.Diff(tt.report, report); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	got, report := mustLoad(t, before+after+"60,1,0,cut sho", contractOf, Exclusion{})
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(Dataset{})); diff != "" || report.Damaged != 1 {
		t.Errorf("a file cut short: %s %+v", diff, report)
	}
}

func TestHeaderIsTheFilesOwn(t *testing.T) {
	for name, tt := range map[string]struct{ csv, want string }{
		"empty":             {"", "the file is empty"},
		"missing":           {"cp,num\n1,0\n", `h.csv: column "age" is missing from the header`},
		"target":            {"age,cp\n1,0\n", `column "num" is missing from the header`},
		"case":              {"Age,cp,num\n1,0\n", "upper and lower case"},
		"twice":             {"age,cp,num,age\n1,1,0,1\n", `column "age" is twice`},
		"no header at all":  {"63,1,1\n67,1,4\n", "missing"},
		"quote":             {"age,\"cp,num\n", "quote"},
		"excluded patients": {"age,cp,num\n", `column "pid" is missing`},
	} {
		_, _, err := Load(strings.NewReader(tt.csv), "h.csv", contractOf, Exclusion{Column: "pid"})
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "63") {
			t.Errorf("%s: got %v, want %q and no value", name, err, tt.want)
		}
	}
	broken := errors.New("disk")
	if _, _, err := Load(io.MultiReader(strings.NewReader("age,cp,num\n1,1,0\n"), iotest.ErrReader(broken)), "h.csv", contractOf, Exclusion{}); !errors.Is(err, broken) {
		t.Errorf("got %v, want the read error", err)
	}
}

func TestPatientsOfSeveralRows(t *testing.T) {
	d := contractOf
	d.Patient = "pid"
	csv := "pid,age,cp,num\na,50,1,0\nb,60,1,0\n a ,40,2,1\n,40,2,1\nc,x,1,0\nd,40,1,1\n"
	out, err := ReadExclusion(strings.NewReader("d\r\n\n zz \n"), "pid")
	if err != nil {
		t.Fatal(err)
	}
	ds, report := mustLoad(t, csv, d, out)
	if diff := cmp.Diff(Report{Lines: 6, Rows: 3, Patients: 2, Missing: 1, Unreadable: 1, Excluded: 1}, report); diff != "" {
		t.Error(diff)
	}
	rows, labels := ds.Patient(0)
	if diff := cmp.Diff([][]float64{{0, -1, -1, 1}, {-1, 1, -1, 1}}, rows); diff != "" || !slices.Equal(labels, []float64{0, 1}) {
		t.Error(diff, labels)
	}
}

// The published benchmark has 740 patients in these four files.
func TestHeartsAre740(t *testing.T) {
	dir := sharedHearts(t)
	raw, err := os.ReadFile("../../deploy/samples/heart/study.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s, err := study.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for hospital, want := range map[string]int{"cleveland": 303, "hungarian": 261, "switzerland": 46, "va": 130} {
		path := filepath.Join(dir, hospital+".csv")
		ds, report, err := LoadFile(path, s.Data, Exclusion{})
		if err != nil {
			t.Fatal(err)
		}
		if ds.Patients() != want || report.Unreadable+report.Damaged > 0 || ds.Dim() != 14 {
			t.Errorf("%s: %d patients of %d columns, %+v, want %d of 14", hospital, ds.Patients(), ds.Dim(), report, want)
		}
		total += ds.Patients()
		found, err := CheckFile(path, s.Data, s.MaxPatients, Exclusion{})
		if err != nil || len(found.Problems()) > 0 {
			t.Errorf("%s: %v %v", hospital, found.Problems(), err)
		}
	}
	if total != 740 {
		t.Errorf("%d patients, want 740", total)
	}
}

func sharedHearts(t *testing.T) string {
	t.Helper()
	shared := os.Getenv("CONSILIUM_SHARED")
	if shared == "" {
		shared = filepath.Join("..", "..", "..", "shared")
	}
	dir := filepath.Join(shared, "data", "heart-disease")
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("the heart data are absent, set CONSILIUM_SHARED: %v", err)
	}
	return dir
}

func TestCheckNamesEveryCellAndNoValue(t *testing.T) {
	csv := "age,cp,num\n50,1,0\nsecret,1,0\n55,9999,text\n,2,1\n7777,1,1\nNaN,1,0\n\"50,5\",1,0\n1,2\n66,1,0,\"\n60,1,1"
	found, err := Check(strings.NewReader(csv), "h.csv", contractOf, 1, Exclusion{})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`h.csv:3: column "age": not a number: want decimal digits with a point`,
		`h.csv:4: column "cp": not one of the study's levels`,
		`h.csv:4: column "num": not a number`,
		`h.csv:7: column "age": not a number: text for NaN`,
		`h.csv:8: column "age": not a number: want a point where there is a comma`,
		`h.csv:9: not as many fields`,
		`h.csv:10: a quote`,
		`h.csv:11: a last line without a line feed`,
		`h.csv: column "age": some numbers are outside`,
		`h.csv: column "age": some cells are empty`,
		`h.csv: more patients than the study's max_patients`,
	}
	if len(found) != len(want) {
		t.Fatalf("got %d findings, want %d:\n%v", len(found), len(want), found)
	}
	for i, w := range want {
		if !strings.HasPrefix(found[i].String(), w) {
			t.Errorf("got %q, want %q", found[i], w)
		}
	}
	text := strings.ToLower(found.Error())
	for _, never := range []string{"secret", "9999", "7777", "50,5", "remove", "delete"} {
		if strings.Contains(text, never) {
			t.Errorf("%q is in the report:\n%s", never, text)
		}
	}
	if !strings.Contains(found[0].Show(), `"secret"`) || len(found.Problems()) != len(found)-2 {
		t.Errorf("%s; %d problems", found[0].Show(), len(found.Problems()))
	}
}

func TestCheckWholeFile(t *testing.T) {
	for name, tt := range map[string]struct{ csv, want string }{
		"unit":       {"age,cp,num\n600,1,0\n700,1,1\n50,1,0\n", `column "age": more than half`},
		"empty":      {"age,cp,num\n", "no row that the study can use"},
		"all lost":   {"age,cp,num\nx,1,0\n", "no row that the study can use"},
		"two absent": {"age\n1\n", `h.csv:1: column "num" is missing`},
		"nothing":    {"", "the file is empty"},
	} {
		found, err := Check(strings.NewReader(tt.csv), "h.csv", contractOf, 10, Exclusion{})
		if err != nil || !strings.Contains(found.Problems().Error(), tt.want) {
			t.Errorf("%s: got %v, %v, want %q", name, found, err, tt.want)
		}
	}
	many := "age,cp,num\n" + strings.Repeat("x,x,x\n", maxFindings)
	found, err := Check(strings.NewReader(many), "h.csv", contractOf, 10, Exclusion{})
	if err != nil || len(found) != maxFindings+2 {
		t.Errorf("%d findings, %v", len(found), err)
	}
}

func TestSurvey(t *testing.T) {
	var s Survey
	for _, csv := range []string{"age,sex,site,extra\n50,1,north,1\n51,0,south,1\n", "site,sex,age\neast,1,52.5\n"} {
		if err := s.Add(strings.NewReader(csv), "h.csv"); err != nil {
			t.Fatal(err)
		}
	}
	want := []study.DraftColumn{{Name: "age"}, {Name: "sex", Levels: []string{"0", "1"}}, {Name: "site", Levels: []string{"east", "north", "south"}}}
	if diff := cmp.Diff(want, s.Columns()); diff != "" {
		t.Error(diff)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte("age,cp,num\n50,1,0\n\"60\",2,1\n"))
	f.Add([]byte("age,cp,num\n50,1,\"\n\"\n1"))
	f.Add(wdbc.CSV[:4000])
	f.Fuzz(func(t *testing.T, b []byte) {
		ds, report, err := Load(strings.NewReader(string(b)), "h.csv", contractOf, Exclusion{})
		if err == nil {
			if report.Rows+report.Damaged+report.Missing+report.Unreadable != report.Lines || ds.Patients() != report.Patients {
				t.Errorf("%+v does not add up", report)
			}
			for i := range ds.Patients() {
				rows, _ := ds.Patient(i)
				for _, v := range rows[0] {
					if !(v >= -Cut && v <= Cut) {
						t.Errorf("%v is outside ±%d", v, Cut)
					}
				}
			}
			// one more line changes nothing about the others
			again, _, err := Load(strings.NewReader(string(b)+"\n50,2,1\n"), "h.csv", contractOf, Exclusion{})
			if err != nil || again.Patients() < ds.Patients() {
				t.Errorf("%v, %d patients before, %v after", err, ds.Patients(), again)
			}
		}
		if _, err := Check(strings.NewReader(string(b)), "h.csv", contractOf, 10, Exclusion{}); err != nil {
			t.Error(err)
		}
		_ = new(Survey).Add(strings.NewReader(string(b)), "h.csv")
	})
}
