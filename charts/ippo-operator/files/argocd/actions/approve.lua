-- Promotes the candidate that waits for a human.
local iterations = (obj.status or {}).iterations or {}
local last = iterations[#iterations]
if last == nil or last.decision == nil or last.promoted ~= nil then
  error("no candidate of this run waits for an answer")
end
obj.spec.promotion = obj.spec.promotion or {}
obj.spec.promotion.approve = last.iteration
return obj
