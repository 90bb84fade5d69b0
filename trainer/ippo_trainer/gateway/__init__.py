"""The gateway (`ippo-gateway`): HTTP in front of the policy servers, which logs what happens durably."""
