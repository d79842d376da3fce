-- Rows for the tables of 01-schema.sql; all people are invented. Dates are near the day of loading, so
-- that the queries at the end find something. A second run changes nothing.

insert into medical_facilities
    (facility_id, facility_name, facility_type, address_line1, city, state, zip_code, phone_number)
values
    ('00000000-0000-4000-8001-000000000001', 'Northside General Hospital', 'Hospital', '1 Harbour Road', 'Seaford', 'OR', '97001', '555-0101'),
    ('00000000-0000-4000-8001-000000000002', 'Riverbank Clinic', 'Clinic', '22 Mill Lane', 'Seaford', 'OR', '97002', '555-0102'),
    ('00000000-0000-4000-8001-000000000003', 'Hillcrest Diagnostic Centre', 'Laboratory', '9 Summit Street', 'Ashby', 'WA', '98003', '555-0103')
on conflict (facility_id) do nothing;

insert into healthcare_providers
    (provider_id, license_number, first_name, last_name, specialty, department, phone_number, email,
     office_location, facility_id)
values
    ('00000000-0000-4000-8002-000000000001', 'LIC-1001', 'Amara', 'Stone', 'Cardiology', 'Medicine', '555-0201', 'amara.stone@clinic.example', 'Room 100', '00000000-0000-4000-8001-000000000001'),
    ('00000000-0000-4000-8002-000000000002', 'LIC-1002', 'Benedikt', 'Hale', 'Family Medicine', 'Primary Care', '555-0202', 'benedikt.hale@clinic.example', 'Room 107', '00000000-0000-4000-8001-000000000002'),
    ('00000000-0000-4000-8002-000000000003', 'LIC-1003', 'Chiara', 'Novak', 'Endocrinology', 'Medicine', '555-0203', 'chiara.novak@clinic.example', 'Room 114', '00000000-0000-4000-8001-000000000003'),
    ('00000000-0000-4000-8002-000000000004', 'LIC-1004', 'Dmitri', 'Okafor', 'Orthopaedics', 'Surgery', '555-0204', 'dmitri.okafor@clinic.example', 'Room 121', '00000000-0000-4000-8001-000000000001'),
    ('00000000-0000-4000-8002-000000000005', 'LIC-1005', 'Elena', 'Marsh', 'Paediatrics', 'Primary Care', '555-0205', 'elena.marsh@clinic.example', 'Room 128', '00000000-0000-4000-8001-000000000002')
on conflict (provider_id) do nothing;

insert into patients
    (patient_id, medical_record_number, first_name, last_name, date_of_birth, gender, blood_type, phone_number, email,
     emergency_contact_name, emergency_contact_phone, address_line1, city, state, zip_code, insurance_provider,
     insurance_policy_number)
values
    ('00000000-0000-4000-8003-000000000001', 'MRN001001', 'Ada', 'Smith', '1956-03-14', 'F', 'A+', '555-0301', 'ada.smith@mail.example', 'Contact of Ada', '555-0401', '10 Garden Way', 'Ashby', 'WA', '98003', 'Harbour Health', 'POL-7001'),
    ('00000000-0000-4000-8003-000000000002', 'MRN001002', 'Bruno', 'Sanders', '1971-07-02', 'M', 'O-', '555-0302', 'bruno.sanders@mail.example', 'Contact of Bruno', '555-0402', '11 Garden Way', 'Seaford', 'OR', '97001', 'Evergreen Mutual', 'POL-7002'),
    ('00000000-0000-4000-8003-000000000003', 'MRN001003', 'Carla', 'Sato', '1988-11-23', 'F', 'B+', '555-0303', 'carla.sato@mail.example', 'Contact of Carla', '555-0403', '12 Garden Way', 'Ashby', 'WA', '98003', 'Evergreen Mutual', 'POL-7003'),
    ('00000000-0000-4000-8003-000000000004', 'MRN001004', 'David', 'Stone', '1963-01-30', 'M', 'AB+', '555-0304', 'david.stone@mail.example', 'Contact of David', '555-0404', '13 Garden Way', 'Seaford', 'OR', '97001', 'Harbour Health', 'POL-7004'),
    ('00000000-0000-4000-8003-000000000005', 'MRN001005', 'Esther', 'Silva', '1994-05-09', 'F', 'O+', '555-0305', 'esther.silva@mail.example', 'Contact of Esther', '555-0405', '14 Garden Way', 'Ashby', 'WA', '98003', 'Evergreen Mutual', 'POL-7005'),
    ('00000000-0000-4000-8003-000000000006', 'MRN001006', 'Felix', 'Keller', '1949-12-17', 'M', 'A-', '555-0306', 'felix.keller@mail.example', 'Contact of Felix', '555-0406', '15 Garden Way', 'Seaford', 'OR', '97001', 'Evergreen Mutual', 'POL-7006'),
    ('00000000-0000-4000-8003-000000000007', 'MRN001007', 'Greta', 'Larsen', '2001-08-28', 'F', 'O+', '555-0307', 'greta.larsen@mail.example', 'Contact of Greta', '555-0407', '16 Garden Way', 'Ashby', 'WA', '98003', 'Harbour Health', 'POL-7007'),
    ('00000000-0000-4000-8003-000000000008', 'MRN001008', 'Hugo', 'Moreau', '1979-04-05', 'M', 'B-', '555-0308', 'hugo.moreau@mail.example', 'Contact of Hugo', '555-0408', '17 Garden Way', 'Seaford', 'OR', '97001', 'Evergreen Mutual', 'POL-7008'),
    ('00000000-0000-4000-8003-000000000009', 'MRN001009', 'Ines', 'Novotna', '1967-10-11', 'F', 'A+', '555-0309', 'ines.novotna@mail.example', 'Contact of Ines', '555-0409', '18 Garden Way', 'Ashby', 'WA', '98003', 'Evergreen Mutual', 'POL-7009'),
    ('00000000-0000-4000-8003-000000000010', 'MRN001010', 'Jonas', 'Berg', '2015-02-19', 'M', 'O+', '555-0310', 'jonas.berg@mail.example', 'Contact of Jonas', '555-0410', '19 Garden Way', 'Seaford', 'OR', '97001', 'Harbour Health', 'POL-7010')
on conflict (patient_id) do nothing;

insert into patients
    (patient_id, medical_record_number, first_name, last_name)
values
    ('00000000-0000-4000-8003-000000000011', 'MRN001011', 'Kira', 'Sorensen'),
    ('00000000-0000-4000-8003-000000000012', 'MRN001012', 'Liam', 'Walsh'),
    ('00000000-0000-4000-8003-000000000013', 'MRN001013', 'Mona', 'Haddad'),
    ('00000000-0000-4000-8003-000000000014', 'MRN001014', 'Nils', 'Strand'),
    ('00000000-0000-4000-8003-000000000015', 'MRN001015', 'Olga', 'Petrova')
on conflict (patient_id) do nothing;

insert into appointments
    (appointment_id, patient_id, provider_id, facility_id, appointment_date, appointment_time, duration_minutes,
     appointment_type, status, chief_complaint)
values
    ('00000000-0000-4000-8004-000000000001', '00000000-0000-4000-8003-000000000001', '00000000-0000-4000-8002-000000000001', '00000000-0000-4000-8001-000000000001', current_date - 20, '09:00', 30, 'Follow-up', 'completed', 'Chest tightness on stairs'),
    ('00000000-0000-4000-8004-000000000002', '00000000-0000-4000-8003-000000000002', '00000000-0000-4000-8002-000000000002', '00000000-0000-4000-8001-000000000002', current_date - 14, '10:30', 20, 'Check-up', 'completed', 'Yearly check-up'),
    ('00000000-0000-4000-8004-000000000003', '00000000-0000-4000-8003-000000000003', '00000000-0000-4000-8002-000000000003', '00000000-0000-4000-8001-000000000003', current_date - 7, '11:00', 45, 'Consultation', 'completed', 'Tired and thirsty'),
    ('00000000-0000-4000-8004-000000000004', '00000000-0000-4000-8003-000000000004', '00000000-0000-4000-8002-000000000004', '00000000-0000-4000-8001-000000000001', current_date, '08:30', 30, 'Consultation', 'scheduled', 'Knee pain'),
    ('00000000-0000-4000-8004-000000000005', '00000000-0000-4000-8003-000000000005', '00000000-0000-4000-8002-000000000001', '00000000-0000-4000-8001-000000000001', current_date, '09:15', 30, 'Follow-up', 'scheduled', 'Blood pressure'),
    ('00000000-0000-4000-8004-000000000006', '00000000-0000-4000-8003-000000000006', '00000000-0000-4000-8002-000000000001', '00000000-0000-4000-8001-000000000001', current_date, '10:00', 30, 'Check-up', 'scheduled', 'Palpitations'),
    ('00000000-0000-4000-8004-000000000007', '00000000-0000-4000-8003-000000000007', '00000000-0000-4000-8002-000000000002', '00000000-0000-4000-8001-000000000002', current_date + 1, '13:00', 20, 'Check-up', 'scheduled', 'Travel vaccination'),
    ('00000000-0000-4000-8004-000000000008', '00000000-0000-4000-8003-000000000008', '00000000-0000-4000-8002-000000000003', '00000000-0000-4000-8001-000000000003', current_date + 3, '14:30', 45, 'Follow-up', 'scheduled', 'Thyroid values'),
    ('00000000-0000-4000-8004-000000000009', '00000000-0000-4000-8003-000000000009', '00000000-0000-4000-8002-000000000004', '00000000-0000-4000-8001-000000000001', current_date + 5, '15:00', 30, 'Consultation', 'scheduled', 'Shoulder stiffness'),
    ('00000000-0000-4000-8004-000000000010', '00000000-0000-4000-8003-000000000010', '00000000-0000-4000-8002-000000000005', '00000000-0000-4000-8001-000000000002', current_date + 7, '16:00', 30, 'Check-up', 'scheduled', 'Growth check')
on conflict (appointment_id) do nothing;

insert into medical_records
    (record_id, patient_id, provider_id, appointment_id, record_date, record_time, chief_complaint,
     history_of_present_illness, physical_examination, assessment_and_plan, diagnosis_codes, procedure_codes, vital_signs)
values
    ('00000000-0000-4000-8005-000000000001', '00000000-0000-4000-8003-000000000001', '00000000-0000-4000-8002-000000000001', '00000000-0000-4000-8004-000000000001', current_date - 20, '09:20', 'Chest tightness on stairs', 'For two months, on exertion only', 'Regular pulse, no murmur', 'Stress test; start beta blocker', '{I20.9}', '{93015}', '{"pulse": 84, "bp": "142/88", "spo2": 97}'),
    ('00000000-0000-4000-8005-000000000002', '00000000-0000-4000-8003-000000000002', '00000000-0000-4000-8002-000000000002', '00000000-0000-4000-8004-000000000002', current_date - 14, '10:45', 'Yearly check-up', 'No complaints', 'Unremarkable', 'Continue as before', '{Z00.00}', '{99396}', '{"pulse": 68, "bp": "122/78", "spo2": 99}'),
    ('00000000-0000-4000-8005-000000000003', '00000000-0000-4000-8003-000000000003', '00000000-0000-4000-8002-000000000003', '00000000-0000-4000-8004-000000000003', current_date - 7, '11:30', 'Tired and thirsty', 'Since spring, lost 4 kg', 'Dry skin, else unremarkable', 'HbA1c; metformin; diet', '{E11.9}', '{83036,99204}', '{"pulse": 76, "bp": "130/82", "spo2": 98}')
on conflict (record_id) do nothing;

insert into prescriptions
    (prescription_id, patient_id, provider_id, medical_record_id, medication_name, dosage, frequency, quantity,
     refills_allowed, refills_remaining, prescribed_date, status, pharmacy_name)
values
    ('00000000-0000-4000-8006-000000000001', '00000000-0000-4000-8003-000000000001', '00000000-0000-4000-8002-000000000001', '00000000-0000-4000-8005-000000000001', 'Metoprolol', '50 mg', 'once a day', 30, 3, 3, current_date - 20, 'active', 'Harbour Pharmacy'),
    ('00000000-0000-4000-8006-000000000002', '00000000-0000-4000-8003-000000000003', '00000000-0000-4000-8002-000000000003', '00000000-0000-4000-8005-000000000003', 'Metformin', '500 mg', 'twice a day', 60, 5, 5, current_date - 7, 'active', 'Harbour Pharmacy'),
    ('00000000-0000-4000-8006-000000000003', '00000000-0000-4000-8003-000000000002', '00000000-0000-4000-8002-000000000002', '00000000-0000-4000-8005-000000000002', 'Vitamin D3', '1000 IU', 'once a day', 90, 1, 1, current_date - 14, 'active', 'Harbour Pharmacy')
on conflict (prescription_id) do nothing;

insert into lab_results
    (lab_result_id, patient_id, provider_id, medical_record_id, test_name, test_code, result_value, reference_range,
     unit_of_measure, abnormal_flag, test_date, result_date, lab_name)
values
    ('00000000-0000-4000-8007-000000000001', '00000000-0000-4000-8003-000000000001', '00000000-0000-4000-8002-000000000001', '00000000-0000-4000-8005-000000000001', 'Troponin I', 'TNI', '0.01', '< 0.04', 'ng/mL', 'N', current_date - 20, current_date - 19, 'Hillcrest Diagnostic Centre'),
    ('00000000-0000-4000-8007-000000000002', '00000000-0000-4000-8003-000000000001', '00000000-0000-4000-8002-000000000001', '00000000-0000-4000-8005-000000000001', 'LDL cholesterol', 'LDL', '164', '< 130', 'mg/dL', 'H', current_date - 20, current_date - 18, 'Hillcrest Diagnostic Centre'),
    ('00000000-0000-4000-8007-000000000003', '00000000-0000-4000-8003-000000000003', '00000000-0000-4000-8002-000000000003', '00000000-0000-4000-8005-000000000003', 'HbA1c', 'A1C', '8.1', '4.0-5.6', '%', 'H', current_date - 7, current_date - 6, 'Hillcrest Diagnostic Centre'),
    ('00000000-0000-4000-8007-000000000004', '00000000-0000-4000-8003-000000000002', '00000000-0000-4000-8002-000000000002', '00000000-0000-4000-8005-000000000002', 'Haemoglobin', 'HGB', '13.9', '12.0-17.5', 'g/dL', 'N', current_date - 14, current_date - 13, 'Hillcrest Diagnostic Centre')
on conflict (lab_result_id) do nothing;

-- Queries to try:
--   a patient by number
--     select * from patients where medical_record_number = 'MRN001003';
--   a provider's day
--     select appointment_time, p.last_name, chief_complaint from appointments join patients p using (patient_id)
--      join healthcare_providers h using (provider_id) where h.last_name = 'Stone' and appointment_date = current_date order by 1;
--   lab results of the last 90 days
--     select p.last_name, test_name, result_value, abnormal_flag from lab_results join patients p using (patient_id)
--      where result_date > current_date - 90 order by result_date desc;
--   active prescriptions
--     select p.last_name, medication_name, dosage from prescriptions join patients p using (patient_id) where status = 'active';
--   appointments per provider in 30 days
--     select h.last_name, count(*) from appointments join healthcare_providers h using (provider_id)
--      where appointment_date between current_date - 30 and current_date + 30 group by 1 order by 2 desc;
