// Package crash kills the roles of a whole hub, real processes of the real binary, at named points, and checks that what the
// design promises holds afterwards. It also hunts for canary credentials in all that a hub leaves behind, and uses a hub as a
// person would. It holds tests only.
//
// A point (package fault) belongs to one role. A round starts that role with the point armed, has people start, sign and cancel
// runs, lets the role die, and waits until every run has settled. CRASH_ROUNDS says how many rounds each point gets (2 if unset),
// CRASH_SEED which passing of a point kills.
package crash
