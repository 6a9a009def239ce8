package services

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// timesheet is one employee's month.
type timesheet struct {
	Employee string      `json:"employee"`
	Month    string      `json:"month"`
	Hours    int         `json:"hours"`
	Amount   json.Number `json:"amount"`
	Currency string      `json:"currency"`
	IBAN     string      `json:"iban"`
}

// A month has 37 employees who earn 61,204.10 EUR together, so that every demo and test sees the same sums.
const (
	employees  = 37
	totalCents = 6_120_410
	firstCents = 120_400
)

// hr answers every month with the same sheets, written once.
type hr struct{ body []byte }

const anyMonth = "0000-00"

func newHR() (*hr, error) {
	body, err := json.Marshal(sheets(anyMonth))
	return &hr{body}, err
}

func (h *hr) timesheets(w http.ResponseWriter, r *http.Request, _ *Seen) {
	month := r.PathValue("month")
	if _, err := time.Parse("2006-01", month); err != nil {
		problem(w, http.StatusNotFound, "No such month", "A month is written as 2026-05.")
		return
	}
	answer(w, http.StatusOK, bytes.ReplaceAll(h.body, []byte(anyMonth), []byte(month)))
}

func sheets(month string) []timesheet {
	all := make([]timesheet, employees)
	left := totalCents - firstCents
	for i := range all {
		cents := firstCents
		if i > 0 {
			// Pairs above and below the mean; the last takes what rounding left.
			mean := (totalCents - firstCents) / (employees - 1)
			cents = mean + 1_700*((i+1)/2)*(1-2*(i%2))
			if i == employees-1 {
				cents = left
			}
			left -= cents
		}
		all[i] = timesheet{
			Employee: fmt.Sprintf("E. %d", 1001+i), Month: month, Hours: 120 + i%41, Amount: json.Number(fmt.Sprintf("%d.%02d", cents/100, cents%100)),
			Currency: "EUR", IBAN: iban(i),
		}
	}
	return all
}

// iban makes a German account number with its two check digits (ISO 7064 mod 97-10).
func iban(i int) string {
	account := fmt.Sprintf("37040044%010d", 532_013_000+i)
	check := 0
	for _, c := range account + "131400" { // D, E and 00, as the standard moves them to the end
		check = (check*10 + int(c-'0')) % 97
	}
	return fmt.Sprintf("DE%02d%s", 98-check, account)
}
